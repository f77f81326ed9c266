"""Which kernels compute: those compiled for this processor where there are any, plain torch otherwise."""

import logging
import os
from collections.abc import Mapping, Sequence

import torch

from engine.errors import LoadError
from engine.kernels.build import BuildSettings, find_or_build
from engine.kernels.compiler import BuildError
from engine.kernels.cpu import CpuKernels
from engine.kernels.instruction_sets import InstructionSet, usable_sets
from engine.kernels.library import Library
from engine.kernels.table import Kernels, reference_kernels

logger = logging.getLogger(__name__)


def choose_kernels(
    device: torch.device, dtype: torch.dtype, threads: int, environment: Mapping[str, str] = os.environ
) -> Kernels:
    """The fastest kernels for a device, compiled first if need be.

    `threads` may compute on a CPU; with dtype float32 nothing is rounded to less on the way. For debugging and tests,
    DELTALOOP_KERNELS=reference asks for plain torch and DELTALOOP_ISA names an instruction set.
    Raises:
        LoadError: one of these variables asks for what does not exist here.
    """
    wanted = environment.get("DELTALOOP_KERNELS") or "auto"
    if wanted not in ("auto", "reference"):
        raise LoadError(f"DELTALOOP_KERNELS must be auto or reference, not {wanted}")
    if device.type != "cpu" or wanted == "reference":
        return reference_kernels()
    sets = wanted_sets(environment.get("DELTALOOP_ISA"))
    try:
        built = find_or_build(sets, BuildSettings.read(environment))
        library = Library(built.path)
    except BuildError as error:
        logger.warning("%s; plain torch computes instead, which is much slower", error)
        return reference_kernels()
    name = f"C++ for {built.instruction_set.name}"
    return cpu_kernels(library, name, threads, exact=dtype is torch.float32, version=built.path.stem)


def wanted_sets(name: str | None) -> Sequence[InstructionSet]:
    """The sets to try, best first: those of this processor, or the one that is asked for; see `choose_kernels`."""
    usable = usable_sets()
    chosen = [known for known in usable if not name or known.name == name]
    if not chosen:
        raise LoadError(f"DELTALOOP_ISA={name}: this processor runs {', '.join(known.name for known in usable)}")
    return chosen


def cpu_kernels(library: Library, name: str, threads: int, exact: bool, version: str = "") -> Kernels:
    """The table of a loaded library; see `CpuKernels`."""
    cpu = CpuKernels(library, threads, exact)
    return Kernels(
        name=name,
        version=version,
        embed=cpu.embed,
        rms_norm=cpu.rms_norm,
        project=cpu.project,
        add_projection=cpu.add_projection,
        delta_net_mix=cpu.delta_net_mix,
        attention_mix=cpu.attention_mix,
        add_moe=cpu.add_moe,
        add_mlp=cpu.add_mlp,
        sample=cpu.sample,
        quantise=cpu.quantise,
        pack=cpu.pack,
        repack=cpu.repack,
    )
