"""The C++ kernels as the project builds them, with a way to fill their scratch memory with NaN.

`compiled` is the table that an engine would get. Its scratch memory is spoilt before every call, so that a kernel that
reads what it has not written shows.
"""

import ctypes
import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.batch import Span
from engine.kernels.build import BuildSettings, find_or_build
from engine.kernels.choice import cpu_kernels
from engine.kernels.instruction_sets import usable_sets
from engine.kernels.library import Library
from engine.kernels.table import Kernels

SPOIL = """
#include <cstring>
#include "workspace.h"
extern "C" __attribute__((visibility("default"))) void spoil(long n) { memset(dl::Workspace::need(n), 0xff, n); }
"""
SPOILT_BYTES = 1 << 24


class CSpan(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("start", "num_rows", "position", "slot")] + [
        ("block_ids", ctypes.c_void_p)
    ]


def instruction_sets() -> list[str]:
    """What this machine runs, best first."""
    return [known.name for known in usable_sets()]


@functools.cache
def built(isa: str) -> Path:
    """The library for an instruction set: the project's sources and a function that spoils the scratch memory."""
    settings = BuildSettings.read(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "csrc"
        shutil.copytree(settings.sources, sources)
        (sources / "spoil.cpp").write_text(SPOIL)
        settings = dataclasses.replace(settings, sources=sources, prebuilt=sources, limit_seconds=240)
        return find_or_build([known for known in usable_sets() if known.name == isa], settings).path


@functools.cache
def library(isa: str) -> ctypes.CDLL:
    """The library by its C names."""
    return ctypes.CDLL(str(built(isa)))


@functools.cache
def compiled(isa: str, threads: int = 2, exact: bool = False) -> Kernels:
    """The kernels of an instruction set; results come as from an engine that was started with it."""
    path = built(isa)
    spoil = ctypes.CDLL(str(path)).spoil
    table = cpu_kernels(Library(path), isa, threads, exact)

    def spoiling(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(kernel)
        def call(*arguments: Any) -> Tensor:
            spoil(ctypes.c_long(SPOILT_BYTES))
            return kernel(*arguments)

        return call

    operators = {f.name: spoiling(getattr(table, f.name)) for f in dataclasses.fields(table) if f.name != "name"}
    return dataclasses.replace(table, **operators)


def pointer(tensor: Tensor) -> int:
    """Where a contiguous tensor lies."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def c_spans(spans: Sequence[Span]) -> "ctypes.Array[CSpan]":
    """The spans as the kernels take them; their block tables must outlive the call."""
    entries = [(s.start, s.num_rows, s.position, s.slot, pointer(s.block_ids)) for s in spans]
    return (CSpan * len(spans))(*entries)


def call(isa: str, name: str, *arguments: object) -> None:
    """Call a kernel by its C name, with nothing but NaN in its scratch memory."""
    kernels = library(isa)
    kernels.spoil(ctypes.c_long(SPOILT_BYTES))
    status = kernels[name](*(ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments))
    if status:
        raise RuntimeError(f"{name} returned {status}")
