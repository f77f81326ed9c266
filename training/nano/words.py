"""Pools of words that requests are made of, each divided into a part for training and a part held out for evaluation.

A word belongs to the held-out part by its checksum, so the division is the same in every run. `Words` draws from one of
the two parts; made-up names (random syllables) exist on both sides, since no two are likely to agree.
"""

import random
import zlib
from dataclasses import dataclass

HELD_OUT_SHARE = 5  # one word in five

STEMS = """
    app main utils config server client index models views routes database schema auth login session cache queue worker
    parser lexer tokenizer render layout theme header footer sidebar button form table chart report invoice order
    payment billing customer account profile settings options logger metrics monitor health backup restore import
    export upload download convert filter search sort merge split sync deploy build release version changelog readme
    license setup install package manifest requirements notes todo draft summary article chapter recipe menu budget
    expenses salary inventory stock catalog product category review comment rating message email letter contact address
    calendar event schedule task project team member employee student teacher course lesson exam grade score player
    game level board map route station ticket flight hotel weather forecast sensor device camera printer scanner router
    network socket proxy gateway balancer cluster node shard replica snapshot checkpoint engine kernel driver plugin
    module service handler controller factory builder adapter bridge visitor observer command query pipeline stage step
    job batch stream buffer frame packet segment block chunk page record field column row index cell matrix vector
    tensor gradient optimizer trainer dataset loader sampler encoder decoder embedding attention transformer
""".split()
FOLDERS = """
    src lib app core tests docs scripts tools data config server client api web static templates public assets images
    styles components pages hooks services models views controllers handlers utils helpers common shared internal pkg
    cmd bin build dist out tmp logs cache backup archive examples samples demo notebooks experiments benchmarks
    migrations fixtures locales plugins modules packages vendor external resources include drivers kernel engine parser
""".split()
EXTENSIONS = "py py py py js ts md txt json yaml toml csv html css rs go c h cpp java sh sql log ini cfg xml tsx".split()
SUBJECTS = """
    parse load save read write open close start stop create delete update insert remove append find match replace
    validate check verify compare count sum total average maximum minimum format print render draw resize crop rotate
    encode decode compress extract encrypt decrypt hash sign connect disconnect send receive fetch request response
    retry timeout error warning failure exception limit offset cursor token secret password username email phone price
    amount currency discount tax shipping delivery warehouse supplier vendor driver vehicle engine battery temperature
    pressure humidity speed distance height weight width length color shape size angle radius volume
""".split()
CITIES = """
    Paris London Berlin Madrid Rome Vienna Prague Warsaw Lisbon Dublin Oslo Stockholm Helsinki Copenhagen Athens Cairo
    Lagos Nairobi Tokyo Osaka Seoul Beijing Shanghai Delhi Mumbai Sydney Melbourne Auckland Toronto Montreal Vancouver
    Chicago Boston Seattle Denver Austin Miami Lima Bogota Santiago Havana Zurich Geneva Munich Hamburg Cologne Milan
    Naples Turin Venice Lyon Nice Bordeaux Porto Seville Valencia Krakow Budapest Bucharest Sofia Istanbul Ankara
""".split()
PEOPLE = """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tina Victor Wendy Alice
    Bob Carol Dan Eve Frank Gina Hugo Iris James Laura Mark Nina Oscar Peter Sara Tom Vera Will Zoe Lucas Mia Omar Priya
    Chen Yuki Ivan Elena Marco Sofia Ahmed Fatima Lars Ingrid
""".split()
THINGS = """
    apple banana book bottle box bread brush bucket button candle chair clock cloud coat coffee cup desk door dress
    engine eraser feather fence flower fork garden glass glove guitar hammer hat house jacket jar kettle key kite knife
    ladder lamp leaf lemon lens map mirror needle notebook orange paint paper pen pencil phone piano pillow plate pocket
    ring rope ruler scarf scissors shelf shirt shoe soap spoon stamp stone sugar table tea ticket towel train tree
    umbrella violin wallet watch water wheel window wood yarn
""".split()
VERBS = """
    get set list create delete update find search send fetch add remove open close start stop run check show move copy
    rename save load convert book order cancel track assign archive publish schedule translate calculate measure compare
    export import sync scan print play pause resize rotate filter sort merge split lock unlock enable disable restart
    register subscribe approve reject upload download verify generate render tag rank label
""".split()
NOUNS = """
    user order invoice ticket task note event message email contact file folder document image video song playlist
    product item cart payment refund account customer employee project issue branch commit release deployment server
    container cluster job queue alert report metric dashboard sensor device light door camera room reservation flight
    hotel taxi meal recipe workout book article comment review survey team channel meeting reminder alarm calendar route
    map location weather stock currency loan policy claim patient appointment course lesson exam grade vehicle package
    shipment warehouse supplier coupon campaign session token secret key table record column snapshot backup
""".split()
STRING_FIELDS = """
    name title id user owner label tag category status query text message subject body email phone address city country
    path url branch author target source destination language format mode color key value note reason comment
    description group team channel room device product item sku customer customer_id user_id order_id project_id region
    date time start_date end_date currency unit priority type version host topic keyword pattern template
""".split()
NUMBER_FIELDS = """
    count limit amount quantity size width height length depth page offset timeout retries port level year month day
    hours minutes seconds age price total weight score rating threshold speed volume brightness temperature duration
    max_results line number
""".split()
FLAG_FIELDS = """
    force recursive verbose dry_run overwrite urgent public private enabled archived notify confirm silent strict
    include_hidden case_sensitive follow all_day draft read_only
""".split()
SYLLABLES = """
    ba be bi bo bu ca ce ci co cu da de di do du fa fe fi fo fu ga ge gi go gu ka ke ki ko ku la le li lo lu ma me mi mo
    mu na ne ni no nu pa pe pi po pu ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo vu za ze zi zo zu ar en il
    or ur st tr pl kr ex
""".split()


def is_held_out(word: str) -> bool:
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
            self.pick(FOLDERS) if self.rng.random() < 0.75 else self.word() for _ in range(self.rng.choice([1, 1, 2, 3]))
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
                f"we need to {verb} the {noun}", f"how to {verb} a {noun}", f"{noun} {self.integer()}", f"best {thing} {noun}",
                f"fix the {thing} in the {noun}", f"{verb} {noun} and {thing}", f"call {self.pick(PEOPLE)} about the {noun}",
                f"the {noun} of {self.pick(PEOPLE)} in {self.pick(CITIES)}", f"do not {verb} the {noun}", f"{noun} with {thing}",
                f"I will {verb} the {noun} at {self.rng.randint(1, 12)}", f"new {noun}", f"{thing} for {self.pick(CITIES)}", f"buy {thing}",
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
