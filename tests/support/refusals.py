"""How a file or a folder that cannot be served is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import LoadError


@contextmanager
def refused(path: Path, message: str) -> Iterator[None]:
    """What is done inside fails with a `LoadError` in one line that names the path and holds a match of the message."""
    with pytest.raises(LoadError, match=message) as caught:
        yield
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
