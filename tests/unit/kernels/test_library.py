"""The C interface in Python says what csrc/api.h says."""

import ctypes
import logging
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.kernels.build import HERE
from engine.kernels.compiler import BuildError
from engine.kernels.library import (
    ALL_BARRED,
    BF16,
    F32,
    INT8,
    NOT_FINITE,
    OUT_OF_MEMORY,
    SIGNATURES,
    UNSUPPORTED,
    DlAttention,
    DlDeltaNet,
    DlDraw,
    DlMatrix,
    DlMoe,
    DlSpan,
    Library,
    _openmp_runtimes,
    check,
)
from engine.quant.formats import FORMATS, int4_format

API = HERE / "csrc" / "api.h"
REAL = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), "")
STRUCTURES = {
    "dl_matrix": DlMatrix,
    "dl_span": DlSpan,
    "dl_delta_net": DlDeltaNet,
    "dl_attention": DlAttention,
    "dl_moe": DlMoe,
    "dl_draw": DlDraw,
}


@pytest.mark.skipif(not REAL, reason="there is no C++ compiler")
def test_structures_and_numbers_are_those_of_the_compiler(tmp_path: Path) -> None:
    """Compile a program that prints every offset and number by name, and compare."""
    expected: dict[str, int] = {
        "DL_OUT_OF_MEMORY": OUT_OF_MEMORY,
        "DL_UNSUPPORTED": UNSUPPORTED,
        "DL_FORM_INT8": INT8,
        "DL_FORM_BF16": BF16,
        "DL_FORM_F32": F32,
        "DL_NOT_FINITE": NOT_FINITE,
        "DL_ALL_BARRED": ALL_BARRED,
        "DL_INT4": int4_format(32).code,
        **{f"DL_{known.name}": known.code for known in FORMATS},
    }
    for name, structure in STRUCTURES.items():
        expected[f"sizeof({name})"] = ctypes.sizeof(structure)
        for field, *_ in structure._fields_:
            expected[f"offsetof({name}, {field})"] = getattr(structure, field).offset
            expected[f"sizeof({name}::{field})"] = getattr(structure, field).size
    prints = "".join(f'    printf("%d\\n", int({term}));\n' for term in expected)
    program = tmp_path / "program.cpp"
    program.write_text(f'#include <cstddef>\n#include <cstdio>\n#include "{API}"\nint main() {{\n{prints}}}\n')
    subprocess.run([REAL, "-std=c++17", "-w", program, "-o", tmp_path / "program"], check=True, timeout=60)
    printed = subprocess.run([tmp_path / "program"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert dict(zip(expected, map(int, printed.split()), strict=True)) == expected


def declared_functions() -> dict[str, tuple[type, ...]]:
    """The functions of api.h with their arguments' types."""
    types = {"int": ctypes.c_int, "int64_t": ctypes.c_int64, "float": ctypes.c_float}
    text = re.sub(r"//.*", "", API.read_text("utf-8"))
    found = {}
    for name, arguments in re.findall(r"\b(dl_\w+)\(([^)]*)\);", text):
        words = [argument.split() for argument in arguments.split(",") if argument.strip()]
        found[name] = tuple(ctypes.c_void_p if "*" in "".join(word) else types[word[0]] for word in words)
    return found


def test_functions_take_what_the_header_says() -> None:
    declared = declared_functions()
    assert {name: declared[name] for name in SIGNATURES} == SIGNATURES


def test_codes() -> None:
    check(0)
    with pytest.raises(MemoryError):
        check(OUT_OF_MEMORY)
    with pytest.raises(RuntimeError, match="format"):
        check(UNSUPPORTED)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.so"
    nonsense.write_text("nonsense")
    with pytest.raises(BuildError, match="cannot be loaded"):
        Library(nonsense)


@pytest.mark.skipif(not REAL, reason="there is no C++ compiler")
def test_a_library_that_lacks_functions(tmp_path: Path) -> None:
    path = tmp_path / "empty.so"
    subprocess.run([REAL, "-shared", "-x", "c++", "-", "-o", path], input=b"", check=True, timeout=60)
    with pytest.raises(BuildError, match="dl_"):
        Library(path)


MAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 08:01 1    /venv/lib/python3.12/site-packages/torch/lib/libgomp.so.1
7f0000001000-7f0000002000 r--p 00000000 08:01 1    /venv/lib/python3.12/site-packages/torch/lib/libgomp.so.1
7f0000002000-7f0000003000 r-xp 00000000 08:01 2    /venv/lib/python3.12/site-packages/torch/lib/libtorch_cpu.so
7f0000003000-7f0000004000 rw-p 00000000 00:00 0
7f0000004000-7f0000005000 r-xp 00000000 08:01 3    /usr/lib/x86_64-linux-gnu/libgomp-1dd373e6.so.1.0.0
7f0000005000-7f0000006000 r-xp 00000000 08:01 3    /opt/my libs/libomp.so
7f0000006000-7f0000007000 r-xp 00000000 08:01 3    /usr/lib/libompeek.so
"""


def test_openmp_runtimes_are_found(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(MAPS)
    names = sorted(path.rpartition("/")[2] for path in _openmp_runtimes(maps))
    assert names == ["libgomp-1dd373e6.so.1.0.0", "libgomp.so.1", "libomp.so"]
    assert _openmp_runtimes(tmp_path / "none") == frozenset()


@pytest.mark.skipif(not REAL, reason="there is no C++ compiler")
@pytest.mark.skipif(len(_openmp_runtimes()) != 1, reason="torch has brought no OpenMP runtime, or two")
def test_torchs_openmp_runtime_is_shared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    functions = "\n".join(f"int {name}() {{ return 0; }}" for name in SIGNATURES)
    source = tmp_path / "stub.cpp"
    source.write_text(
        f'#include <omp.h>\nextern "C" {{\nint threads() {{ return omp_get_max_threads(); }}\n{functions} }}'
    )
    path = tmp_path / "stub.so"
    done = subprocess.run([REAL, "-fopenmp", "-shared", "-fPIC", source, "-o", path], check=False, timeout=60)
    if done.returncode or "clang" in subprocess.run([REAL, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("the compiler has another OpenMP runtime, or none")
    before = _openmp_runtimes()
    Library(path)
    assert _openmp_runtimes() == before
    assert not caplog.records
