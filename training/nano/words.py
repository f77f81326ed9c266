"""Pools of words that requests are made of, each divided into a part for training and a part held out for evaluation.

A word belongs to the held-out part by its checksum, so the division is the same in every run. `Words` draws from one of
the two parts; made-up names (random syllables) exist on both sides, since no two are likely to agree.
"""

import random
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path

_POOLS = {
    name: text.split() for name, text in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
}
STEMS = _POOLS["stems"]
FOLDERS = _POOLS["folders"]
EXTENSIONS = _POOLS["extensions"]
SUBJECTS = _POOLS["subjects"]
CITIES = _POOLS["cities"]
PEOPLE = _POOLS["people"]
THINGS = _POOLS["things"]
VERBS = _POOLS["verbs"]
NOUNS = _POOLS["nouns"]
STRING_FIELDS = _POOLS["string_fields"]
NUMBER_FIELDS = _POOLS["number_fields"]
FLAG_FIELDS = _POOLS["flag_fields"]
SYLLABLES = _POOLS["syllables"]
HELD_OUT_SHARE = 5  # one word in five


def is_held_out(word: str) -> bool:
    """Whether a word belongs to the part that training never uses."""
    return zlib.crc32(word.encode()) % HELD_OUT_SHARE == 0


@dataclass(frozen=True, slots=True)
class Words:
    """Draws words from the training part or the held-out part of every pool."""

    rng: random.Random
    held_out: bool = False

    def pick(self, pool: list[str]) -> str:
        for _ in range(200):
            word = self.rng.choice(pool)
            if is_held_out(word) == self.held_out:
                return word
        raise AssertionError(f"no word on this side of the division in {pool[:3]}...")

    def made_up(self) -> str:
        return "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(2, 4)))

    def word(self) -> str:
        """Any single lower-case word."""
        if self.rng.random() < 0.25:
            return self.made_up()
        return self.pick(self.rng.choice([STEMS, SUBJECTS, THINGS, NOUNS]))

    def identifier(self) -> str:
        """A name as in code: one to three words in snake case or camel case, at times with a number."""
        parts = [self.word() for _ in range(self.rng.choice([1, 2, 2, 2, 3]))]
        style = self.rng.random()
        if style < 0.65:
            name = "_".join(parts)
        elif style < 0.85:
            name = "".join(part.capitalize() for part in parts)
        else:
            name = parts[0] + "".join(part.capitalize() for part in parts[1:])
        return name + (str(self.rng.randint(1, 99)) if self.rng.random() < 0.1 else "")

    def file_name(self) -> str:
        stem = self.word()
        if self.rng.random() < 0.4:
            stem += self.rng.choice("__-") + self.word()
        if self.rng.random() < 0.12:
            stem += str(self.rng.randint(1, 30))
        if self.rng.random() < 0.08:
            stem = stem.capitalize()
        return f"{stem}.{self.rng.choice(EXTENSIONS)}"

    def folder(self) -> str:
        parts = [
            self.pick(FOLDERS) if self.rng.random() < 0.75 else self.word()
            for _ in range(self.rng.choice([1, 1, 2, 3]))
        ]
        return self.rng.choice(["", "", "", "", "/", "./", "~/"]) + "/".join(parts)

    def path(self) -> str:
        name = self.file_name()
        return name if self.rng.random() < 0.35 else f"{self.folder()}/{name}"

    def phrase(self) -> str:
        """Two to eight words of text, at times a small sentence and at times without any sense."""
        if self.rng.random() < 0.35:
            return " ".join(self.word() for _ in range(self.rng.randint(2, 6)))
        verb, noun, thing = self.pick(VERBS), self.pick(NOUNS), self.word()
        text = self.rng.choice(
            [
                f"{verb} the {noun}", f"{verb} the {thing} {noun}", f"the {noun} is ready", f"{noun} for the {thing}",
                f"we need to {verb} the {noun}", f"how to {verb} a {noun}", f"{noun} {self.integer()}",
                f"best {thing} {noun}", f"fix the {thing} in the {noun}", f"{verb} {noun} and {thing}",
                f"call {self.pick(PEOPLE)} about the {noun}",
                f"the {noun} of {self.pick(PEOPLE)} in {self.pick(CITIES)}", f"do not {verb} the {noun}",
                f"{noun} with {thing}", f"I will {verb} the {noun} at {self.rng.randint(1, 12)}", f"new {noun}",
                f"{thing} for {self.pick(CITIES)}", f"buy {thing}",
            ]
        )  # fmt: skip
        return text.capitalize() if self.rng.random() < 0.15 else text

    def integer(self) -> int:
        roll = self.rng.random()
        if roll < 0.5:
            return self.rng.randint(0, 20)
        return self.rng.randint(21, 999) if roll < 0.85 else self.rng.randint(1000, 99999)

    def code_tag(self) -> str:
        """An identifier as businesses use: letters, a dash, digits."""
        letters = "".join(self.rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=self.rng.randint(1, 4)))
        return f"{letters}{self.rng.choice(['-', '-', '', '_'])}{self.rng.randint(1, 99999)}"
