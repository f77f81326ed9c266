"""The C++ kernels as a shared library: one that came along, one that an earlier start compiled, or one compiled now.

A library is called `<sources>-<compiler>-<instruction set>.so`: a hash of the sources, flags and kind of machine, then
one of the compiler. It is found again only while none of that has changed. Standard library only, so that an image can
be built without torch: `python -m engine.kernels.build --all --out FOLDER`.
"""

import argparse
import atexit
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.kernels.compiler import FLAGS, OPENMP, POLL_SECONDS, BuildError, Compiler
from engine.kernels.instruction_sets import InstructionSet, known_sets

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
SOURCE_BYTES_PER_SECOND = 2500  # what a compiler gets through on one core, roughly


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """Where things are, and how long compiling may take.

    Attributes:
        sources: folder of the C++ files.
        prebuilt: folder of libraries that came along; need not exist.
        cache: folder for libraries compiled here; None when the user has no home.
        compilers: commands to try in this order.
        limit_seconds: most time for one library, waiting for another process that compiles included.
    """

    sources: Path = HERE / "csrc"
    prebuilt: Path = HERE / "prebuilt"
    cache: Path | None = None
    compilers: tuple[str, ...] = ("g++", "clang++", "c++")
    limit_seconds: float = 60.0

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "BuildSettings":
        """The settings of this machine and user: CXX, XDG_CACHE_HOME, DELTALOOP_KERNELS_CACHE and _DIR."""
        settings = cls(cache=_cache_folder(environment))
        if environment.get("CXX"):
            settings = replace(settings, compilers=(environment["CXX"],))
        if environment.get("DELTALOOP_KERNELS_DIR"):
            settings = replace(settings, prebuilt=Path(environment["DELTALOOP_KERNELS_DIR"]))
        return settings


def _cache_folder(environment: Mapping[str, str]) -> Path | None:
    if environment.get("DELTALOOP_KERNELS_CACHE"):
        return Path(environment["DELTALOOP_KERNELS_CACHE"]) / "kernels"
    if Path(environment.get("XDG_CACHE_HOME", "")).is_absolute():
        return Path(environment["XDG_CACHE_HOME"]) / "deltaloop" / "kernels"
    try:
        return Path.home() / ".cache" / "deltaloop" / "kernels"
    except RuntimeError:
        return None


@dataclass(frozen=True, slots=True)
class BuiltLibrary:
    """A library and the instruction set it was compiled for."""

    path: Path
    instruction_set: InstructionSet


def find_or_build(instruction_sets: Sequence[InstructionSet], settings: BuildSettings) -> BuiltLibrary:
    """A library for the first of these sets, best first, that one can be had for.

    Raises:
        BuildError: there is none, and none could be compiled.
    """
    try:
        return _find_or_build(instruction_sets, settings)
    except OSError as error:
        raise BuildError(f"the kernels cannot be compiled: {error}") from error


def _find_or_build(instruction_sets: Sequence[InstructionSet], settings: BuildSettings) -> BuiltLibrary:
    compiler = Compiler.find(settings.compilers)
    for instruction_set in instruction_sets:
        sources_hash = _sources_hash(instruction_set, settings.sources)
        any_compiler = f"{sources_hash}-*-{instruction_set.name}.so"
        found = next(settings.prebuilt.glob(any_compiler), None)
        if compiler is None:
            found = found or _in_cache(settings.cache, any_compiler)
        if found:
            return BuiltLibrary(found, instruction_set)
        flags = compiler.flags(instruction_set) if compiler else None
        if compiler and flags:
            name = f"{sources_hash}-{_hash(compiler.version, *flags)}-{instruction_set.name}.so"
            path = _in_cache(settings.cache, name) or _compiled(name, compiler, flags, settings)
            return BuiltLibrary(path, instruction_set)
        if compiler:
            logger.warning("%s does not know %s; trying what comes next", compiler.title, instruction_set.name)
    if compiler:
        raise BuildError(f"{compiler.title} compiles nothing, not even for {instruction_sets[-1].name}")
    raise BuildError(f"found no C++ compiler that runs ({', '.join(settings.compilers)})")


def _sources_hash(instruction_set: InstructionSet, sources: Path) -> str:
    files = [path for path in sorted(sources.iterdir()) if path.suffix in (".cpp", ".h")]
    texts = [part for path in files for part in (path.name, path.read_text("utf-8"))]
    return _hash(platform.system(), platform.machine(), *FLAGS, *instruction_set.flags, *texts)


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _in_cache(folder: Path | None, pattern: str) -> Path | None:
    """A library of that name, in a folder that nobody else can write to: what lies there is executed."""
    return next(folder.glob(pattern), None) if folder and folder.is_dir() and _is_ours(folder) else None


def _is_ours(folder: Path) -> bool:
    state = folder.stat()
    return state.st_uid in (0, os.geteuid()) and not state.st_mode & 0o022


def _compiled(name: str, compiler: Compiler, flags: Sequence[str], settings: BuildSettings) -> Path:
    """Compile a library, unless another process just did."""
    deadline = time.monotonic() + settings.limit_seconds
    library = _folder_to_write(settings.cache) / name
    with _lock(library.parent / "lock", deadline):
        if not library.exists():
            _compile(library, compiler, flags, settings.sources, deadline)
    return library


def _folder_to_write(folder: Path | None) -> Path:
    """The cache, made if need be, or else a folder that lives as long as this process."""
    try:
        if folder is None:
            raise OSError("there is no home folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if not _is_ours(folder):
            raise OSError(f"others may write to {folder}")
    except OSError as error:
        logger.warning("the compiled kernels cannot be kept for the next start: %s", error)
        folder = Path(tempfile.mkdtemp(prefix="deltaloop-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _lock(path: Path, deadline: float) -> Iterator[None]:
    """Let one process at a time compile."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f"another process has been compiling for too long ({path})") from None
                time.sleep(POLL_SECONDS)
            except OSError:  # a file system without locks: at worst the work is done twice
                break
        yield


def _compile(library: Path, compiler: Compiler, flags: Sequence[str], sources: Path, deadline: float) -> None:
    units = sorted(sources.glob("*.cpp"), key=lambda unit: unit.stat().st_size, reverse=True)  # the longest first
    if not units:
        raise BuildError(f"there are no sources in {sources}")
    jobs = min(_num_cores(), len(units))
    seconds = max(1, round(sum(unit.stat().st_size for unit in units) / SOURCE_BYTES_PER_SECOND / jobs))
    target = library.stem.rpartition("-")[2]
    logger.info("compiling the kernels for %s with %s, once, about %d s", target, compiler.title, seconds)
    if OPENMP not in flags:
        logger.warning("%s has no OpenMP: the kernels will run on one core", compiler.title)
    started = time.monotonic()
    try:
        compiler.make(units, flags, library, jobs, deadline)
    except TimeoutError:
        by_hand = f"python -m engine.kernels.build --isa {target} --out {library.parent}"
        raise BuildError(f"compiling the kernels takes too long for a start ({by_hand} has more time)") from None
    logger.info("compiled the kernels in %.1f s: %s", time.monotonic() - started, library)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Compile libraries that come along with an image or a wheel."""
    sets = known_sets()
    names = [known.name for known in sets]
    parser = argparse.ArgumentParser(prog="python -m engine.kernels.build", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the libraries go")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--all", action="store_true", help=f"compile for {', '.join(names)}")
    chosen.add_argument("--isa", choices=names, help="compile for this one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = arguments.out.resolve()
    out.mkdir(mode=0o755, parents=True, exist_ok=True)
    settings = replace(BuildSettings.read(os.environ), prebuilt=out, cache=out, limit_seconds=600.0)
    for known in sets:
        if arguments.all or known.name == arguments.isa:
            try:
                built = find_or_build([known], settings)
            except BuildError as error:
                sys.exit(f"{known.name}: {error}")
            if built.path.parent != out:
                sys.exit(f"{known.name}: nothing can be written to {out}")


if __name__ == "__main__":
    main()
