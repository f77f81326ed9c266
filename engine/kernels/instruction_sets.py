"""Which instructions this processor has, and the sets of them that the kernels are compiled for.

A set is fixed: a library compiled for it here runs on every processor that has it. Standard library only.
"""

import ctypes
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

ARCH_PRCTL = 158  # system call number on x86-64
ARCH_REQ_XCOMP_PERM = 0x1023
XFEATURE_XTILEDATA = 18


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """Processor features as Linux names them in /proc/cpuinfo, and the compiler flags that use them."""

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]


def _extend(base: InstructionSet, name: str, **features: str) -> InstructionSet:
    """`base` and more: each feature with its compiler flag, less "-m"."""
    flags = tuple(f"-m{flag}" for flag in features.values())
    return InstructionSet(name, base.features | set(features), base.flags + flags)


# Features are named one by one, not by -march=x86-64-v4, which compilers before g++ 11 and clang 12 do not know.
PORTABLE = InstructionSet("portable", frozenset(), ())
AVX2 = _extend(PORTABLE, "avx2", avx2="avx2", fma="fma", f16c="f16c", bmi1="bmi", bmi2="bmi2")
AVX512 = _extend(
    AVX2,
    "avx512",
    avx512f="avx512f",
    avx512bw="avx512bw",
    avx512cd="avx512cd",
    avx512dq="avx512dq",
    avx512vl="avx512vl",
    avx512_vnni="avx512vnni",
)
AVX512_BF16 = _extend(AVX512, "avx512_bf16", avx512vbmi="avx512vbmi", avx512_bf16="avx512bf16")
AMX = _extend(AVX512_BF16, "amx", amx_tile="amx-tile", amx_int8="amx-int8", amx_bf16="amx-bf16")

X86_SETS = (AMX, AVX512_BF16, AVX512, AVX2, PORTABLE)  # best first


def known_sets(machine: str | None = None) -> tuple[InstructionSet, ...]:
    """The sets that libraries are compiled for on this kind of machine, best first."""
    return X86_SETS if (machine or platform.machine()).lower() in ("x86_64", "amd64") else (PORTABLE,)


def usable_sets(features: frozenset[str] | None = None) -> tuple[InstructionSet, ...]:
    """The sets this processor can run, best first. Asks Linux for the tile registers where it takes AMX.

    Processors other than x86-64 on Linux get `portable` alone: it needs no more than the compiler's defaults, which
    on ARM include vectors, and torch is no longer made for Macs with x86.
    """
    found = processor_features() if features is None else features
    usable = [known for known in known_sets() if known.features <= found]
    return tuple(known for known in usable if known is not AMX or request_tile_registers())


def processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features that every core has, by Linux's names; empty where Linux does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    cores = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return frozenset.intersection(*cores) if cores else frozenset()


def request_tile_registers() -> bool:
    """Ask Linux to let this process, all its threads, use AMX's tile registers; whether it may.

    Without this the first tile instruction ends the process. Refused by kernels before 5.16 and by some sandboxes.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arguments = (ctypes.c_long(ARCH_PRCTL), ctypes.c_long(ARCH_REQ_XCOMP_PERM), ctypes.c_long(XFEATURE_XTILEDATA))
    return int(ctypes.CDLL(None).syscall(*arguments)) == 0
