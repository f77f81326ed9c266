"""The text of a message whose content is a string or a list of parts, in the shape that OpenAI's two APIs share.

Knows that shape, no dialect: what kinds of parts there are, and where their text is, the caller says.
"""

from collections.abc import Mapping
from typing import Any

from server.absent import unreadable_part, unseen
from server.errors import InvalidRequest


def flat_text(content: Any, path: str, kinds: Mapping[str, str], leaves_out: bool = False) -> str:
    """Flat text from a string, a list of text parts, or nothing. `kinds` are the members that hold the text.

    With `leaves_out` a sentence takes the place of a picture or file, see `unseen`.

    Raises:
        InvalidRequest: names the part that is none, or no text; `path` is where the content stands.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest(f"{path} must be text or a list of parts.", param=path)
    return "".join(_part(part, f"{path}[{index}]", kinds, leaves_out) for index, part in enumerate(content))


def _part(part: Any, path: str, kinds: Mapping[str, str], leaves_out: bool) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    member = kinds.get(kind) if isinstance(kind, str) else None
    if member is None and leaves_out and (sentence := unseen(kind)):
        return sentence
    if member is None:
        raise unreadable_part(kind, path)
    text = part.get(member)
    if not isinstance(text, str):
        raise InvalidRequest(f"{path}.{member} must be text.", param=f"{path}.{member}")
    return text
