"""What a client makes of a parser's pieces, with everything checked that holds for any text and any parser."""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from server.chat.call_parser import CallParser
from server.chat.call_pieces import CallArguments, CallCut, CallEnded, CallStarted, Markup, Piece, TextPiece

MakeParser = Callable[[], CallParser]


@dataclass
class Answer:
    """The pieces of an answer, neighbours of one kind joined, and what a client sees: text, and calls as lists of
    name, arguments as JSON text, whether the call ended."""

    pieces: list[Piece]
    parts: list[Any]
    in_call: bool

    @property
    def texts(self) -> list[str]:
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def calls(self) -> list[tuple[str, Any]]:
        return [(part[0], json.loads(part[1])) for part in self.parts if isinstance(part, list)]


def parse(make: MakeParser, portions: Iterable[str], truncated: bool = False, may_break_json: bool = False) -> Answer:
    """`may_break_json`: the model writes JSON itself, so a call that ended may have arguments that are none."""
    parser = make()
    portions = list(portions)
    pieces = pieces_of(parser, portions, truncated)
    check_spans("".join(portions), pieces)
    assert all(piece.text for piece in pieces if isinstance(piece, TextPiece))
    assert all(piece.fragment for piece in pieces if isinstance(piece, CallArguments))
    whole = joined(pieces)
    answer = Answer(whole, parts_of(whole), parser.in_call)
    assert parser.num_calls == sum(isinstance(part, list) for part in answer.parts)
    assert parser.in_call == any(isinstance(piece, CallCut) for piece in pieces)
    assert parser.in_call == any(isinstance(part, list) and not part[2] for part in answer.parts)
    assert truncated or not parser.in_call
    for part in answer.parts:
        if isinstance(part, list):
            assert has_object(part[1]) == part[2] or (part[2] and may_break_json)
    return answer


def pieces_of(parser: CallParser, portions: Iterable[str], truncated: bool) -> list[Piece]:
    pieces: list[Piece] = []
    for portion in portions:
        pieces += parser.feed(portion)
    return pieces + parser.finish(truncated)


def has_object(text: str) -> bool:
    """Whether a client could take the arguments for complete."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def check_spans(text: str, pieces: list[Piece]) -> None:
    """The spans cover the text in order, and all of it that is no space is in a text piece or in a part of a call."""
    at = 0
    for piece in pieces:
        assert piece.start == at, "a gap or an overlap"
        assert piece.end >= at
        at = piece.end
        source = text[piece.start : piece.end]
        if isinstance(piece, TextPiece):
            assert source in (piece.text, "")
        elif isinstance(piece, Markup):
            assert source
            assert "</tool_call>".startswith(re.sub(r"^[\s}]+", "", source).rstrip())
    assert at == len(text), "the end is missing"


def joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind made one."""
    whole: list[Piece] = []
    for kind, group in itertools.groupby(pieces, type):
        found = list(group)
        first, last = found[0], found[-1]
        if len(found) == 1:
            whole.append(first)
        elif isinstance(first, TextPiece):
            text = "".join(piece.text for piece in found if isinstance(piece, TextPiece))
            whole.append(TextPiece(text, first.start, last.end))
        elif isinstance(first, CallArguments):
            fragments = [(piece.index, piece.fragment) for piece in found if isinstance(piece, CallArguments)]
            assert {index for index, _ in fragments} == {first.index}
            text = "".join(fragment for _, fragment in fragments)
            whole.append(CallArguments(first.index, text, first.start, last.end))
        else:
            assert kind is Markup, f"{kind.__name__} twice in a row"
            whole.append(Markup(first.start, last.end))
    return whole


def parts_of(pieces: list[Piece]) -> list[Any]:
    parts: list[Any] = []
    for piece in pieces:
        match piece:
            case TextPiece(text):
                if parts and isinstance(parts[-1], str):
                    parts[-1] += text
                else:
                    parts.append(text)
            case CallStarted(index, name):
                assert index == sum(isinstance(part, list) for part in parts)
                assert name
                parts.append([name, "", False])
            case CallArguments(index, fragment):
                assert not parts[-1][2]
                parts[-1][1] += fragment
            case CallEnded():
                parts[-1][2] = True
            case CallCut():
                assert piece is pieces[-1]
                assert not parts[-1][2]
    return parts


def parse_every_cut(
    make: MakeParser, text: str, truncated: bool = False, seed: int = 0, may_break_json: bool = False
) -> Answer:
    """The answer, after making sure that it is the same cut in two anywhere, in even pieces and in random ones."""
    whole = parse(make, [text], truncated, may_break_json)
    for cut in range(1, len(text)):
        pieces = pieces_of(make(), (text[:cut], text[cut:]), truncated)
        assert joined(pieces) == whole.pieces, f"cut at {cut}"
    for width in (1, 2, 3, 7):
        portions = [text[at : at + width] for at in range(0, len(text), width)]
        assert parse(make, portions, truncated, may_break_json) == whole, f"pieces of {width}"
    assert parse(make, random_portions(text, random.Random(seed)), truncated, may_break_json) == whole, "random pieces"
    return whole


def random_portions(text: str, dice: random.Random) -> list[str]:
    edges = sorted({0, len(text), *(dice.randint(0, len(text)) for _ in range(dice.randint(0, 8)))})
    return [text[start:end] for start, end in itertools.pairwise(edges)] or [""]
