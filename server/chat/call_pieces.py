"""What an answer is made of: text for the reader, and calls in parts, each with the place in the answer it comes from.

Lives here: the pieces that tool-call parsers give out, and how they count. It may not know any markup.

Places count characters of the answer as the model wrote it. A piece's span begins where that of the piece before it
ended and goes to what the parser has dealt with by then, so the spans of an answer's pieces, in order, cover it without
gap or overlap; in a part that the parser only skips, the next piece has it. What a span holds:

* of a `TextPiece`, exactly its text; or nothing, where text that stood inside a call is given out after it;
* of a `CallStarted`, the head of the call and the whitespace before it;
* of `CallArguments`, the parameters' markup and values, and text between these;
* of a `CallEnded`, the closing tag, if that is there; of `Markup`, a tag after it, or whitespace at the end;
* of a `CallCut`, what was held back of a call when the answer was cut off.

So no character but whitespace is lost: each is in a text, or in the span of a part of a call. Neighbours of one kind
may be joined: text and span of the whole then do not depend on how the answer was portioned.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text for the reader."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call opened: its place among the answer's calls and the function's name."""

    index: int
    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A fragment of a call's arguments; the fragments of one call joined are one JSON object.

    A model that writes JSON itself can break it beyond mending: then they are what it wrote, which no client can read.
    """

    index: int
    fragment: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call's arguments are complete."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CallCut:
    """The answer was cut off inside the call, which must not be run. No piece follows."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Markup:
    """A tag or whitespace around calls that says nothing to anybody."""

    start: int
    end: int


Piece = TextPiece | CallStarted | CallArguments | CallEnded | CallCut | Markup
