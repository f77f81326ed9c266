"""The markup of Qwen3-Coder's tool calls: where it stands in a text.

Lives here: the tags, and the questions whether a call begins or a value ends at a place, without any memory. It may not
know what has been said before, nor what is done with the answers.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from server.chat.text_tail import Tail

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
FUNCTION_OPEN, FUNCTION_CLOSE = "<function=", "</function>"
PARAMETER_OPEN, PARAMETER_CLOSE = "<parameter=", "</parameter>"
HELD_VALUE_CLOSE = "\n" + PARAMETER_CLOSE  # of a value that was held to a grammar

_AFTER_PARAMETER = (PARAMETER_OPEN, FUNCTION_CLOSE, CALL_CLOSE, CALL_OPEN, FUNCTION_OPEN)
_AFTER_FUNCTION = (CALL_CLOSE, CALL_OPEN, FUNCTION_OPEN)
_AFTER_CALL = (CALL_OPEN, FUNCTION_OPEN)
_AROUND_NAME = " \t\r\n\"'"
_PLAUSIBLE_NAME = re.compile(r"""\s*["']?[\w.:/@-]{0,128}["']?\s*""")


@dataclass(frozen=True, slots=True)
class Opening:
    """A call's head: the function's name and where the text goes on."""

    name: str
    end: int


@dataclass(frozen=True, slots=True)
class QuoteEnd:
    """The end of a call that a value quotes."""

    end: int


class NeedMore:
    """The text so far does not tell: it ends inside what may be markup."""


NEED_MORE = NeedMore()


def opening_at(tail: Tail, found: int, is_line_start: bool, offered: Collection[str]) -> Opening | NeedMore | None:
    """The head of a call at `found`, where a "<" is; None if there is none."""
    opener = tail.has(CALL_OPEN, found)
    at = tail.skip_space(found + len(CALL_OPEN)) if opener else found
    function = tail.has(FUNCTION_OPEN, at) if opener or is_line_start else False
    if function:
        return _function_name(tail, at + len(FUNCTION_OPEN), bool(opener), offered)
    return NEED_MORE if opener is None or function is None else None


def _function_name(tail: Tail, start: int, has_opener: bool, offered: Collection[str]) -> Opening | NeedMore | None:
    end = tail.tag_end(start)
    raw = tail.text[start : end if end >= 0 else len(tail.text)]
    name = unquoted(raw)
    is_plausible = has_opener and _PLAUSIBLE_NAME.fullmatch(raw) is not None
    if end >= 0:
        is_whole = has_opener or tail.text[end] == ">"
        is_name = name in offered or (is_plausible and name)
        return Opening(name, tail.behind_tag(end)) if is_name and is_whole else None
    may_come = is_plausible or any(known.startswith(name) for known in offered)
    return NEED_MORE if may_come and not tail.ended else None


def unquoted(name: str) -> str:
    """A name without the space and the quotes that some models write around it."""
    return name.strip(_AROUND_NAME)


def value_end_at(tail: Tail, found: int, awaited: Collection[str]) -> int | NeedMore | None:
    """Where the call goes on if the "<" at `found` ends the value before it; None if it is part of the value.

    `awaited` are the declared parameters without a value yet. The closers other than `</parameter>` count only at the
    start of a line, where that one is missing.
    """
    closed = tail.has_followed(PARAMETER_CLOSE, found, _AFTER_PARAMETER)
    if closed:
        return found + len(PARAMETER_CLOSE)
    answers: list[bool | None] = [closed]
    if tail.before_newline(found) < found:
        answers.append(_parameter_begins(tail, found, awaited))
        answers.append(tail.has_followed(FUNCTION_CLOSE, found, _AFTER_FUNCTION))
        answers.append(tail.has_followed(CALL_CLOSE, found, _AFTER_CALL))
    if True in answers:
        return found
    return NEED_MORE if None in answers else None


def _parameter_begins(tail: Tail, found: int, awaited: Collection[str]) -> bool | None:
    opened = tail.has(PARAMETER_OPEN, found)
    if not opened:
        return opened
    return tail.has_any([key + end for key in awaited for end in ">="], found + len(PARAMETER_OPEN))


def quote_begins(tail: Tail, found: int) -> bool | None:
    """Whether a value quotes a call from the "<" at `found` on: its closing tags will not be those of the value."""
    return tail.has_followed(CALL_OPEN, found, (FUNCTION_OPEN,), or_end=False)


def quote_end_at(tail: Tail, found: int) -> QuoteEnd | int | NeedMore | None:
    """What the "<" at `found` ends while a value quotes a call: that call, the value as in `value_end_at`, or nothing.

    Closing tags are the value's if the stream ends with them, for then the quote was of a part of a call.
    """
    at = end = found
    for tag in (PARAMETER_CLOSE, FUNCTION_CLOSE, CALL_CLOSE):
        closed = tail.has(tag, at)
        if closed is None:
            return NEED_MORE
        if closed:
            end = at + len(tag)
            at = tail.skip_space(end)
    if end == found:
        return None
    if at == len(tail.text):
        resume = found + len(PARAMETER_CLOSE) if tail.has(PARAMETER_CLOSE, found) else found
        return resume if tail.ended else NEED_MORE
    return QuoteEnd(end) if tail.text.endswith(CALL_CLOSE, found, end) else None
