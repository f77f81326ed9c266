"""Content blocks as they stand on the wire: finding them, and what is in them, or saying what is wrong with them.

Knows JSON, and no kind of block but text.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from server.errors import InvalidRequest

Block = Mapping[str, Any]


def blocks_of(content: Any, path: str) -> Iterator[tuple[str, Block]]:
    """Each block with its path; text alone is one block.

    Raises:
        InvalidRequest: names what is no block.
    """
    if isinstance(content, str):
        yield path, {"type": "text", "text": content}
        return
    if content is not None and not isinstance(content, list):
        raise InvalidRequest(f"{path} must be text or a list of blocks.", param=path)
    for index, block in enumerate(content or ()):
        if not isinstance(block, dict):
            raise InvalidRequest(f"{path}[{index}] must be an object with a type.", param=f"{path}[{index}]")
        yield f"{path}[{index}]", block


def string_of(block: Block, name: str, path: str) -> str:
    """A text that must be there. Raises `InvalidRequest`."""
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{path}.{name} must be text.", param=f"{path}.{name}")
    return value


def name_of(block: Block, path: str) -> str:
    """A name, which is no empty text. Raises `InvalidRequest`."""
    name = string_of(block, "name", path)
    if not name:
        raise InvalidRequest(f"{path}.name is required.", param=f"{path}.name")
    return name


def id_of(block: Block, name: str) -> str | None:
    """An id, if there is one."""
    value = block.get(name)
    return value if isinstance(value, str) else None


def headed(block: Block, names: tuple[str, ...], text: str) -> str:
    """A text below what its block says about it, each on a line of its own."""
    lines = [block[name] for name in names if isinstance(block.get(name), str) and block[name]]
    return "\n".join([*lines, text])
