"""The command `deltaloop connect CLIENT`: what to tell a client, printed or put in place.

Files' contents go to standard output, everything said about them to standard error. A key is written into files and
never printed.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from server.connect.clients import CLIENTS
from server.connect.endpoint import checked_key, checked_url, find_endpoint
from server.connect.files import put, read_text
from server.connect.formats import Unreadable
from server.connect.recipe import ConfigFile, Places, Recipe
from server.connect.tree import CannotMerge

SHOWN_KEY = "YOUR_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser this command's grammar."""
    parser.add_argument("client", choices=sorted(CLIENTS), metavar="CLIENT", help=", ".join(sorted(CLIENTS)))
    parser.add_argument("--write", action="store_true", help="put it in place, and keep a copy of what was there")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where the server listens (default: {DEFAULT_URL})")
    parser.add_argument("--model", help="name of the model (default: asked from the server)")
    parser.add_argument("--context", type=_count, metavar="TOKENS", help="its context (default: asked from the server)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="the server's key, if it asks for one (default: $DELTALOOP_API_KEY)"
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 9 or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number of tokens")
    return int(text)


def connect(arguments: argparse.Namespace, environment: Mapping[str, str]) -> bool:
    """Carry the command out. Returns whether everything is as it should be.

    Raises:
        ConnectError: it could not begin.
    """
    given = arguments.api_key or environment.get("DELTALOOP_API_KEY", "").partition(",")[0].strip()
    key = checked_key(given)
    endpoint = find_endpoint(checked_url(arguments.url), arguments.model, arguments.context, key)
    home = environment.get("HOME")
    places = Places(environment, Path(home) if home else Path.home(), sys.platform == "darwin")
    recipe = CLIENTS[arguments.client]
    shown = recipe(replace(endpoint, api_key=SHOWN_KEY if key else None), places)
    done = _write(recipe(endpoint, places), shown, key) if arguments.write else _print(shown, bool(key))
    for note in shown.notes:
        _say(note)
    _say(f"Then: {shown.start}")
    return done


def _print(shown: Recipe, has_key: bool) -> bool:
    for number, file in enumerate(shown.files):
        _say(f"{file.path} needs:" if number == 0 else f"\n{file.path} needs:")
        _show(file)
    _say("\n--write puts this in place, and keeps what else is there." + f" {SHOWN_KEY} is your key." * has_key)
    return True


def _write(real: Recipe, shown: Recipe, key: str | None) -> bool:
    done = True
    for file, without_key in zip(real.files, shown.files, strict=True):
        try:
            _say(_put(file, key))
        except (Unreadable, CannotMerge, OSError, ValueError) as error:
            done = False
            _say(f"left alone: {file.path}: {_reason(error)}; it needs:")
            _show(without_key)
    return done


def _put(file: ConfigFile, key: str | None) -> str:
    old = read_text(file.path)
    new = file.format.merged(old or "", file.content)
    written = put(file.path, old, new, private=key is not None and key in new)
    if not written.changed:
        return f"unchanged: {file.path}"
    return f"written: {file.path}" + (f" (before: {written.backup})" if written.backup else "")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return getattr(error, "strerror", None) or str(error)


def _show(file: ConfigFile) -> None:
    print(file.format.fresh(file.content), end="", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
