"""Compiling at first start, with a tiny source and with compilers that fail in all the ways they do."""

import ctypes
import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.kernels.build import BuildSettings, find_or_build, main
from engine.kernels.compiler import BuildError, Compiler
from engine.kernels.instruction_sets import AVX2, PORTABLE, InstructionSet, known_sets

REAL = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), "")
needs_compiler = pytest.mark.skipif(not REAL, reason="there is no C++ compiler")
ROOT = Path(__file__).parents[3]
UNHEARD_OF = InstructionSet("unheard_of", frozenset(), ("-munheard-of",))


def source(number: int) -> str:
    return f'extern "C" __attribute__((visibility("default"))) int answer() {{ return {number}; }}\n'


def answer(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).answer())


@pytest.fixture
def settings(tmp_path: Path) -> BuildSettings:
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "answer.cpp").write_text(source(1))
    (sources / "other.cpp").write_text('#include "other.h"\n')
    (sources / "other.h").write_text("int other();\n")
    return BuildSettings(sources, tmp_path / "prebuilt", tmp_path / "cache" / "kernels", (REAL or "g++",), 60.0)


def script(tmp_path: Path, body: str) -> str:
    """A compiler of our own making; it counts the units it compiles in the file `count`."""
    path = tmp_path / "compiler"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "odd 1.0"; exit 0; fi\n'
        f'case "$*" in *-fsyntax-only*) exit 0;; *" -c "*) echo x >> {tmp_path}/count;; esac\n{body}\n'
    )
    path.chmod(0o755)
    return str(path)


def num_compiled(tmp_path: Path) -> int:
    count = tmp_path / "count"
    return len(count.read_text().splitlines()) if count.exists() else 0


@needs_compiler
def test_it_is_compiled_once_and_says_so(settings: BuildSettings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    built = find_or_build([PORTABLE], settings)
    assert answer(built.path) == 1
    assert built.instruction_set is PORTABLE
    assert built.path.parent == settings.cache
    before, after = (record.getMessage() for record in caplog.records)
    assert before.startswith("compiling the kernels for portable")
    assert "once" in before
    assert after.startswith("compiled the kernels in ")
    caplog.clear()
    stamp = built.path.stat().st_mtime_ns
    assert find_or_build([PORTABLE], settings) == built
    assert built.path.stat().st_mtime_ns == stamp
    assert not caplog.records
    assert sorted(path.name for path in built.path.parent.iterdir()) == sorted([built.path.name, "lock"])


@needs_compiler
def test_nobody_else_may_write_to_the_cache(settings: BuildSettings, caplog: pytest.LogCaptureFixture) -> None:
    built = find_or_build([PORTABLE], settings)
    assert stat.S_IMODE(built.path.parent.stat().st_mode) == 0o700
    built.path.parent.chmod(0o777)
    other = find_or_build([PORTABLE], settings)
    assert other.path.parent != settings.cache
    assert "others may write" in caplog.text


@needs_compiler
@pytest.mark.parametrize("changed", ["answer.cpp", "other.h"])
def test_changed_sources_are_compiled_anew(settings: BuildSettings, changed: str) -> None:
    first = find_or_build([PORTABLE], settings).path
    path = settings.sources / changed
    path.write_text(path.read_text().replace("1", "2") + "\n")
    second = find_or_build([PORTABLE], settings).path
    assert first != second
    assert answer(second) == (2 if changed == "answer.cpp" else 1)


@needs_compiler
def test_another_compiler_compiles_anew_but_none_is_needed_afterwards(settings: BuildSettings, tmp_path: Path) -> None:
    first = find_or_build([PORTABLE], settings).path
    odd = script(tmp_path, f'exec {REAL} "$@"')
    second = find_or_build([PORTABLE], replace(settings, compilers=(odd,))).path
    assert first != second
    assert num_compiled(tmp_path) == 2
    without = replace(settings, compilers=("no-such-compiler",))
    assert find_or_build([PORTABLE], without).path in (first, second)


@needs_compiler
def test_a_library_that_came_along_needs_no_compiler(settings: BuildSettings) -> None:
    assert settings.cache
    made = find_or_build([PORTABLE], settings).path
    settings.prebuilt.mkdir()
    made.rename(settings.prebuilt / made.name)
    without = replace(settings, compilers=("no-such-compiler",), cache=None)
    found = find_or_build([UNHEARD_OF, PORTABLE], without)
    assert found.path.parent == settings.prebuilt
    assert found.instruction_set is PORTABLE
    (settings.sources / "answer.cpp").write_text(source(2))
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        find_or_build([PORTABLE], without)


@needs_compiler
def test_a_compiler_that_does_not_know_a_set(settings: BuildSettings, caplog: pytest.LogCaptureFixture) -> None:
    built = find_or_build([UNHEARD_OF, PORTABLE], settings)
    assert built.instruction_set is PORTABLE
    assert "does not know unheard_of" in caplog.text
    with pytest.raises(BuildError, match="not even for unheard_of"):
        find_or_build([UNHEARD_OF], settings)


@needs_compiler
def test_a_compiler_without_openmp(settings: BuildSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = tmp_path / "plain"
    odd.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) echo unsupported >&2; exit 1;; esac\nexec {REAL} "$@"\n')
    odd.chmod(0o755)
    built = find_or_build([PORTABLE], replace(settings, compilers=(str(odd),)))
    assert answer(built.path) == 1
    assert "has no OpenMP" in caplog.text


@pytest.mark.parametrize("command", ["no-such-compiler", "/dev/null", "false", ""])
def test_without_a_compiler(settings: BuildSettings, command: str) -> None:
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        find_or_build([PORTABLE], replace(settings, compilers=(command,)))


@needs_compiler
def test_the_first_error_is_told(settings: BuildSettings) -> None:
    (settings.sources / "answer.cpp").write_text("#warning odd\nint answer() { return one; }\n")
    with pytest.raises(BuildError, match=r"answer.cpp:2:\d+: error: .*one"):
        find_or_build([PORTABLE], settings)
    assert settings.cache
    assert [path.name for path in settings.cache.iterdir()] == ["lock"]


def test_a_compiler_that_dies_without_a_word(settings: BuildSettings, tmp_path: Path) -> None:
    broken = script(tmp_path, "exit 3")
    with pytest.raises(BuildError, match="exit status 3"):
        find_or_build([PORTABLE], replace(settings, compilers=(broken,)))


def test_a_compiler_that_takes_too_long_is_ended_with_its_children(settings: BuildSettings, tmp_path: Path) -> None:
    slow = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    started = time.monotonic()
    with pytest.raises(BuildError, match="too long"):
        find_or_build([PORTABLE], replace(settings, compilers=(slow,), limit_seconds=2.0))
    assert time.monotonic() - started < 60
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    while child.exists() and child.read_text().split()[2] != "Z":  # nobody may be there to reap it
        assert time.monotonic() - started < 60
        time.sleep(0.02)


@needs_compiler
def test_concurrent_first_starts_compile_once(settings: BuildSettings, tmp_path: Path) -> None:
    odd = script(tmp_path, f'sleep 0.2; exec {REAL} "$@"')
    settings = replace(settings, compilers=(odd,))
    with ThreadPoolExecutor(4) as pool:
        built = set(pool.map(lambda _: find_or_build([PORTABLE], settings), range(4)))
    assert len(built) == 1
    assert num_compiled(tmp_path) == 2  # two units


def test_waiting_for_another_process_ends(settings: BuildSettings, tmp_path: Path) -> None:
    slow = replace(settings, compilers=(script(tmp_path, "sleep 60"),), limit_seconds=2.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(find_or_build, [PORTABLE], slow)
        while not num_compiled(tmp_path):
            time.sleep(0.01)
        with pytest.raises(BuildError, match="another process"):
            find_or_build([PORTABLE], replace(slow, limit_seconds=0.1))
        assert isinstance(first.exception(), BuildError)


@needs_compiler
def test_a_cache_that_cannot_be_written(settings: BuildSettings, caplog: pytest.LogCaptureFixture) -> None:
    for cache in (None, Path("/proc/no/kernels"), settings.sources / "answer.cpp"):
        caplog.clear()
        built = find_or_build([PORTABLE], replace(settings, cache=cache))
        assert answer(built.path) == 1
        assert "cannot be kept" in caplog.text


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_read(settings: BuildSettings) -> None:
    built = find_or_build([PORTABLE], settings)
    built.path.parent.chmod(0o500)
    assert find_or_build([PORTABLE], settings) == built
    built.path.parent.chmod(0o700)


def test_sources_that_are_not_there(settings: BuildSettings, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be compiled"):
        find_or_build([PORTABLE], replace(settings, sources=tmp_path / "none"))


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    def cache(**environment: str) -> Path | None:
        return BuildSettings.read(environment).cache

    monkeypatch.setenv("HOME", "/home/someone")
    assert cache() == Path("/home/someone/.cache/deltaloop/kernels")
    assert cache(XDG_CACHE_HOME="relative") == Path("/home/someone/.cache/deltaloop/kernels")
    assert cache(XDG_CACHE_HOME="/xdg") == Path("/xdg/deltaloop/kernels")
    assert cache(XDG_CACHE_HOME="/xdg", DELTALOOP_KERNELS_CACHE="/ours") == Path("/ours/kernels")
    assert BuildSettings.read({"CXX": "ccache g++-14"}).compilers == ("ccache g++-14",)
    assert BuildSettings.read({}).compilers == ("g++", "clang++", "c++")
    assert BuildSettings.read({"DELTALOOP_KERNELS_DIR": "/image"}).prebuilt == Path("/image")


@needs_compiler
def test_the_compiler_knows_common_sets() -> None:
    compiler = Compiler.find([REAL])
    assert compiler
    flags = compiler.flags(AVX2) if AVX2 in known_sets() else compiler.flags(PORTABLE)
    assert flags
    assert set(flags) >= {"-O3", "-ffp-contract=off"}


@needs_compiler
def test_libraries_for_an_image(settings: BuildSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--all` compiles for every set; here with a source that takes no time."""
    out = tmp_path / "image" / "prebuilt"
    monkeypatch.setattr(BuildSettings, "read", lambda environment: settings)
    monkeypatch.setattr(sys, "argv", ["build", "--all", "--out", str(out)])
    main()
    names = {path.stem.rpartition("-")[2] for path in out.glob("*.so")}
    assert names == {known.name for known in known_sets()}
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    for known in known_sets():
        without = replace(settings, prebuilt=out, compilers=("no-such-compiler",), cache=None)
        assert find_or_build([known], without).path.parent == out
    broken = replace(settings, compilers=("no-such-compiler",), cache=None)
    monkeypatch.setattr(BuildSettings, "read", lambda environment: broken)
    monkeypatch.setattr(sys, "argv", ["build", "--isa", "portable", "--out", str(tmp_path / "empty")])
    with pytest.raises(SystemExit, match="no C\\+\\+ compiler"):
        main()


def test_the_build_needs_no_torch() -> None:
    command = [sys.executable, "-S", "-c", "import engine.kernels.build"]  # no installed packages at all
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
