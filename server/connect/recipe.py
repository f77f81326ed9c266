"""What a client needs, as data: which files hold what, how it is started, and what its user has to know.

Knows nothing of particular clients, nor of how files are written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.connect.endpoint import Endpoint
from server.connect.formats import Format


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What one of a client's files must say; what else it says is the user's.

    In `content` an item of a list stands for the item that has the same value under its first key, or under the first
    key of the table there.
    """

    path: Path
    format: Format
    content: Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that points one client at an endpoint."""

    files: tuple[ConfigFile, ...]
    start: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where this user's clients keep their files, after the variables that they go by themselves."""

    environment: Mapping[str, str]
    home: Path
    is_mac: bool = False

    def named(self, variable: str, default: Path) -> Path:
        """The folder or file that a client's own variable names."""
        value = self.environment.get(variable)
        return Path(value).expanduser() if value else default

    @property
    def config(self) -> Path:
        """The folder of those who keep to the XDG base directories, on every system."""
        named = Path(self.environment.get("XDG_CONFIG_HOME") or "")
        return named if named.is_absolute() else self.home / ".config"

    @property
    def support(self) -> Path:
        """The folder of those who keep to the system's own habits."""
        return self.home / "Library" / "Application Support" if self.is_mac else self.config


Client = Callable[[Endpoint, Places], Recipe]
