"""Tools for the generated conversations: the familiar ones of catalogue.toml, and a maker of made-up ones.

Each `Tool` can show its JSON schema (under one of several names, so that a model cannot learn names by heart) and make
`Request`s: a sentence together with the exact arguments that it asks for.
"""

import json
import random
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .words import CITIES, FLAG_FIELDS, NOUNS, NUMBER_FIELDS, PEOPLE, STRING_FIELDS, VERBS, Words

Value: TypeAlias = str | int | float | bool | list[str] | dict[str, str | int]
Maker: TypeAlias = Callable[[Words], Value]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of one concrete tool; `phrases` ask for a value of an optional one ("" asks for a flag)."""

    key: str
    name: str
    type: str
    description: str
    make: Maker
    required: bool = True
    phrases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What the user says, and the arguments of the one right call."""

    text: str
    arguments: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as it is offered in one conversation."""

    kind: str
    name: str
    description: str
    parameters: tuple[Parameter, ...]
    sentences: tuple[str, ...]

    def schema(self, rng: random.Random) -> dict[str, object]:
        """The tool in OpenAI's form, with the details that differ between clients drawn at random."""
        properties: dict[str, object] = {}
        for parameter in self.parameters:
            entry: dict[str, object] = {"type": parameter.type}
            if parameter.description and rng.random() < 0.7:
                entry["description"] = parameter.description
            if parameter.choices:
                entry["enum"] = list(parameter.choices)
            if parameter.type == "array":
                entry["items"] = {"type": "string"}
            properties[parameter.name] = entry
        schema: dict[str, object] = {"type": "object", "properties": properties}
        if rng.random() < 0.85:
            schema["required"] = [p.name for p in self.parameters if p.required]
        if rng.random() < 0.15:
            schema["additionalProperties"] = False
        function: dict[str, object] = {"name": self.name, "description": self.description, "parameters": schema}
        if rng.random() < 0.08:
            del function["description"]
        return {"type": "function", "function": function}

    def request(self, words: Words) -> Request:
        rng = words.rng
        wanted = [p for p in self.parameters if p.required or (p.phrases and rng.random() < 0.35)]
        values = {p.key: p.make(words) for p in wanted}
        sentence = rng.choice(self.sentences)
        shown = {p.key: spoken(values[p.key], p, rng, f"`{{{p.key}}}" in sentence) for p in wanted}
        text = sentence.format(**shown)
        for parameter in wanted:
            if not parameter.required:
                value = values[parameter.key]
                phrase = rng.choice(parameter.phrases)
                if isinstance(value, bool):
                    phrase = rng.choice(flag_phrases(parameter.name, value))
                text += phrase.format(**shown)
        text = dressed(text, rng, multiline="\n" in text)
        return Request(text, {p.name: values[p.key] for p in wanted})


def flag_phrases(name: str, value: bool) -> list[str]:
    """Ways to ask for a flag."""
    words = name.replace("_", " ")
    if value:
        return [f" with {words} on", f", {words}", f" with {name}=true", f" and set {name} to true", f" ({name}: true)"]
    return [f" with {words} off", f", not {words}", f" with {name}=false", f" and set {name} to false"]


def spoken(value: Value, parameter: Parameter, rng: random.Random, quoted: bool) -> str:
    """A value as a user writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        if rng.random() < 0.4 or len(value) < 2:
            return json.dumps(value)
        return ", ".join(value[:-1]) + rng.choice([" and ", ", "]) + value[-1]
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, str) and "\n" not in value and not quoted:
        marks = [("", "", 6), ("`", "`", 3), ('"', '"', 3), ("'", "'", 1)]
        if " " in value:
            marks[0] = ("", "", 3)
        usable = [mark for mark in marks if not mark[0] or mark[0] not in value]
        left, right, _ = rng.choices(usable, [mark[2] for mark in usable])[0]
        return f"{left}{value}{right}"
    return str(value)


OPENINGS = (
    "Please ",
    "please ",
    "Can you ",
    "Could you ",
    "I want you to ",
    "Now ",
    "Hey, ",
    "I need you to ",
    "Then ",
)


def dressed(text: str, rng: random.Random, multiline: bool) -> str:
    """The sentence with the politeness, capitals and stops that users do or do not use."""
    opening = ""
    if rng.random() < 0.3 and not text.startswith(("Wh", "How", "I ", "Is", "Are", "Does")):
        opening = rng.choice(OPENINGS)
        text = opening + text[0].lower() + text[1:]
    elif rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    if multiline or text.endswith(("?", ".", "`", '"')):
        return text
    if opening in ("Can you ", "Could you "):
        return text + rng.choice(["?", "?", ""])
    return text + rng.choice(["", "", ".", ".", " please", " for me", ", thanks"])


def one_of(*values: str) -> Maker:
    """A maker that picks one of some strings."""
    return lambda words: words.rng.choice(values)


def city(words: Words) -> Value:
    """A city, at times one that does not exist."""
    if words.rng.random() < 0.15:
        return words.made_up().capitalize()
    return words.pick(CITIES)


def person(words: Words) -> Value:
    """A first name."""
    return words.pick(PEOPLE)


def path(words: Words) -> Value:
    """A path of a file."""
    return words.path()


def folder(words: Words) -> Value:
    """A path of a folder."""
    return words.folder() if words.rng.random() < 0.9 else "."


def identifier(words: Words) -> Value:
    """A name as in code."""
    return words.identifier()


def phrase(words: Words) -> Value:
    """A few words."""
    return words.phrase()


def small_number(words: Words) -> Value:
    """A number up to sixty."""
    return words.rng.randint(1, 60)


def line_number(words: Words) -> Value:
    """A number up to nine hundred."""
    return words.rng.randint(1, 900)


def yes(words: Words) -> Value:
    """Mostly true."""
    return words.rng.random() < 0.8


def email(words: Words) -> Value:
    """An address."""
    return f"{words.pick(PEOPLE).lower()}@{words.word()}.{words.rng.choice(['com', 'org', 'net', 'io'])}"


def url(words: Words) -> Value:
    """An address on the web."""
    start, domain = words.rng.choice(["", "www.", "api.", "docs."]), words.word()
    site = f"https://{start}{domain}.{words.rng.choice(['com', 'org', 'io', 'dev'])}"
    return site + words.rng.choice(["", "/" + words.word(), f"/{words.word()}/{words.word()}", f"/{words.file_name()}"])


def date(words: Words) -> Value:
    """A date as YYYY-MM-DD."""
    return f"20{words.rng.randint(20, 31)}-{words.rng.randint(1, 12):02}-{words.rng.randint(1, 28):02}"


def pattern(words: Words) -> Value:
    """Something to search code for."""
    word = words.identifier()
    return words.rng.choice(
        [
            word,
            word,
            word,
            f"def {word}",
            f"class {word}",
            f"import {word}",
            f"{word}(",
            "TODO",
            f"TODO: {word}",
            word.upper(),
        ]
    )


def glob(words: Words) -> Value:
    """A pattern of file names."""
    extension = words.file_name().rsplit(".", 1)[1]
    return (
        words.rng.choice(["*.", "**/*.", f"{words.folder()}/*.", f"{words.folder()}/**/*.", f"{words.word()}*."])
        + extension
    )


def command(words: Words) -> Value:
    """A shell command."""
    path_, folder_, word = words.path(), words.folder(), words.word()
    return words.rng.choice(
        [
            "ls", "ls -la", f"ls {folder_}", f"ls -la {folder_}", "pwd", "whoami", "date", "git status", "git diff",
            "make", f"git log -n {words.rng.randint(1, 20)}", f"git diff {path_}", f"git checkout {word}",
            f"git add {path_}", f"git checkout -b {word}", f"git commit -m '{words.phrase()}'", f"cat {path_}",
            f"head -n {words.integer()} {path_}", f"tail -f {path_}", f"wc -l {path_}", f"python {path_}",
            f"python3 {path_}", f"python -m {word}", "pytest", f"pytest {folder_}", f"pytest -q {path_}",
            f"pytest -k {words.identifier()}", f"pip install {word}", f"make {word}", f"npm install {word}",
            f"npm run {word}", "npm test", f"mkdir {folder_}", f"mkdir -p {folder_}", f"rm {path_}",
            f"cp {path_} {folder_}", f"mv {path_} {words.path()}", f"grep -r {word} {folder_}",
            f"grep -n '{word}' {path_}", f"find . -name '*.{path_.rsplit('.', 1)[1]}'", f"echo {word}",
            f"echo '{words.phrase()}'", f"touch {path_}", f"ruff check {folder_}", f"mypy {folder_}", "docker ps",
            f"docker build -t {word} .", f"cd {folder_} && ls", f"cd {folder_} && pytest", f"curl {url(words)}",
            "cargo test", "go test ./...", f"chmod +x {path_}", "df -h",
        ]
    )  # fmt: skip


def code(words: Words) -> Value:
    """A small piece of a text or source file, of one to four lines."""
    one, two, number = words.identifier(), words.word(), words.integer()
    return words.rng.choice(
        [
            f"print({one})", f'print("{words.phrase()}")', f"{one} = {number}", f'{one} = "{two}"', f"import {two}",
            words.phrase(), f"def {one}():\n    return {number}", f"def {one}({two}):\n    return {two} + {number}",
            f"# {words.phrase()}", f"import {two}\n\nprint({two}.{one})", f"class {one}:\n    {two} = {number}",
            f"{two}: {number}\n{words.word()}: {one}", f"for {two} in {one}:\n    print({two})",
            f"if {one}:\n    {two} = {number}", f"- {words.phrase()}\n- {words.phrase()}",
            f"def {one}({two}):\n    {words.word()} = {two} * {number}\n    return {words.word()}",
            f"{words.phrase()}\n{words.phrase()}", f"from {two} import {one}", f'{{"{one}": {number}}}',
            f"return {one}", f"{one}({two}, {number})",
        ]
    )  # fmt: skip


def paths(words: Words) -> Value:
    """One to four paths."""
    return [words.path() for _ in range(words.rng.randint(1, 4))]


def names(words: Words) -> Value:
    """Two to four words."""
    return [words.word() for _ in range(words.rng.randint(2, 4))]


def mapping(words: Words) -> Value:
    """A small object."""
    keys = [words.word() for _ in range(words.rng.randint(1, 2))]
    return {key: words.integer() if words.rng.random() < 0.5 else words.word() for key in keys}


def amount(words: Words) -> Value:
    """A number, at times with a decimal."""
    return words.integer() if words.rng.random() < 0.7 else words.rng.randint(1, 9999) / 10


def ticker(words: Words) -> Value:
    """A stock symbol."""
    return "".join(words.rng.choices("ABCDEFGHIKLMNOPRSTUVX", k=words.rng.randint(2, 4)))


def expression(words: Words) -> Value:
    """A sum or a product to work out."""
    more = f" {words.rng.choice('+-*')} {words.integer()}" if words.rng.random() < 0.3 else ""
    return f"{words.integer()} {words.rng.choice('+-*/')} {words.integer()}{more}"


def people(words: Words) -> Value:
    """Two or three names."""
    return [words.pick(PEOPLE) for _ in range(words.rng.randint(2, 3))]


CHOICES = {"unit": ("celsius", "fahrenheit"), "priority": ("low", "medium", "high")}
MAKERS: dict[str, Maker] = {
    "amount": amount, "city": city, "code": code, "command": command, "date": date, "email": email,
    "expression": expression, "folder": folder, "glob": glob, "identifier": identifier, "line_number": line_number,
    "path": path, "paths": paths, "pattern": pattern, "people": people, "person": person, "phrase": phrase,
    "small_number": small_number, "ticker": ticker, "url": url, "yes": yes,
    "currency": one_of("USD", "EUR", "GBP", "JPY", "CHF", "CAD", "AUD", "SEK", "INR"),
    "priority": one_of(*CHOICES["priority"]), "unit": one_of(*CHOICES["unit"]),
}  # fmt: skip
CATALOGUE: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text("utf-8"))


def catalogued(words: Words, kind: str) -> Tool:
    """A familiar tool under one of its names."""
    rng = words.rng
    entry = CATALOGUE[kind]
    name = rng.choice(entry["names"])
    parameters: list[Parameter] = []
    for spec in entry.get("parameters", ()):
        optional = "phrases" in spec or spec["type"] == "boolean"
        if optional and rng.random() < 0.45:
            continue
        taken = {p.name for p in parameters}
        parameters.append(
            Parameter(
                key=spec["key"],
                name=rng.choice([label for label in spec["names"] if label not in taken]),
                type=spec["type"],
                description=rng.choice(spec["descriptions"]),
                make=MAKERS[spec["values"]],
                required=not optional,
                phrases=tuple(spec.get("phrases", ("",) if optional else ())),
                choices=CHOICES.get(spec["key"], ()) if rng.random() < 0.8 else (),
            )
        )
    sentences = tuple(entry["sentences"])
    if kind == "nothing":
        sentences = tuple(s.format(name=name, spoken=name.replace("_", " ")) for s in sentences)
    return Tool(kind, name, rng.choice(entry["descriptions"]), tuple(parameters), sentences)


def styled(parts: list[str], rng: random.Random) -> str:
    """The words as one name, in one of four styles."""
    roll = rng.random()
    if roll < 0.65:
        return "_".join(parts)
    if roll < 0.8:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return "".join(part.capitalize() for part in parts) if roll < 0.92 else "-".join(parts)


def field_value(name: str, type_: str) -> Maker:
    """A maker of plausible values for a field of a made-up tool."""
    if type_ == "integer":
        return lambda words: words.integer()
    if type_ == "number":
        return lambda words: words.rng.randint(1, 9999) / 10
    if type_ == "boolean":
        return lambda words: words.rng.random() < 0.6
    if type_ == "array":
        return names
    if type_ == "object":
        return mapping
    fitting: dict[str, Maker] = {
        "email": email, "url": url, "path": path, "date": date, "start_date": date, "end_date": date, "city": city,
        "user": person, "owner": person, "author": person, "message": phrase, "description": phrase, "subject": phrase,
        "reason": phrase, "comment": phrase, "note": phrase, "body": phrase, "title": phrase, "query": phrase,
    }  # fmt: skip
    if name in fitting:
        return fitting[name]
    return lambda words: words.rng.choice([words.word, words.word, words.identifier, words.code_tag, words.phrase])()


def made_up(words: Words) -> Tool:
    """A tool that no one has seen: a verb and a noun, with parameters drawn from pools of field names."""
    rng = words.rng
    verb, noun = words.pick(VERBS), words.pick(NOUNS)
    if rng.random() < 0.1:
        noun = words.made_up()
    parameters: list[Parameter] = []
    for _ in range(rng.choice([1, 1, 2, 2, 2, 3, 3, 4])):
        type_ = rng.choices(["string", "integer", "number", "boolean", "array", "object"], [62, 17, 4, 10, 4, 3])[0]
        pool = NUMBER_FIELDS if type_ in ("integer", "number") else FLAG_FIELDS if type_ == "boolean" else STRING_FIELDS
        name = words.pick(pool) if rng.random() < 0.9 else words.made_up()
        if any(p.name == name for p in parameters):
            continue
        talk = name.replace("_", " ")
        note = rng.choice(
            [f"The {talk}", f"{talk.capitalize()} of the {noun}", f"The {noun}'s {talk}", talk.capitalize(), ""]
        )
        parameters.append(Parameter(f"p{len(parameters)}", name, type_, note, field_value(name, type_)))
    description = rng.choice(
        [
            f"{verb.capitalize()} a {noun}.",
            f"{verb.capitalize()} the {noun}",
            f"Use this to {verb} a {noun}.",
            f"{verb.capitalize()}s {noun}s.",
        ]
    )
    name = styled([verb, noun], rng)
    return Tool("made_up", name, description, tuple(parameters), sentences_for(name, verb, noun, parameters, rng))


def sentences_for(name: str, verb: str, noun: str, parameters: list[Parameter], rng: random.Random) -> tuple[str, ...]:
    """Ways to ask for a made-up tool."""

    def listed(form: str, separator: str, last: str) -> str:
        parts = [form.format(name=p.name, talk=p.name.replace("_", " "), slot="{" + p.key + "}") for p in parameters]
        return separator.join(parts[:-1]) + last + parts[-1] if len(parts) > 1 else parts[0]

    article = rng.choice(["the ", "a ", ""])
    plain = [
        f"{verb.capitalize()} {article}{noun} with " + listed("{talk} {slot}", ", ", " and "),
        f"{verb.capitalize()} {article}{noun}: " + listed("{talk} {slot}", ", ", ", "),
        f"{verb.capitalize()} {article}{noun} where " + listed("{talk} is {slot}", ", ", " and "),
        f"Call {name} with " + listed("{name} {slot}", ", ", " and "),
        f"Call {name} with " + listed("{name}={slot}", ", ", ", "),
        f"Use {name} with " + listed("{name} set to {slot}", ", ", " and "),
        f"Use `{name}`: " + listed("{name} is {slot}", ", ", ", "),
        f"Run {name}(" + listed("{name}={slot}", ", ", ", ") + ")",
        f"I want to {verb} {article}{noun}. " + listed("The {talk} is {slot}", ". ", ". "),
        f"{verb.capitalize()} {article}{noun}, " + listed("{talk} = {slot}", ", ", ", "),
        f"{verb.capitalize()} {article}{noun}. " + listed("{talk}: {slot}", "; ", "; "),
        f"We need to {verb} {article}{noun} with " + listed("the {talk} {slot}", ", ", " and "),
    ]
    if len(parameters) == 1:
        slot = "{" + parameters[0].key + "}"
        if parameters[0].type in ("string", "integer"):
            plain += [f"{verb.capitalize()} the {noun} {slot}", f"{verb.capitalize()} {noun} {slot}"] * 2
    return tuple(plain)
