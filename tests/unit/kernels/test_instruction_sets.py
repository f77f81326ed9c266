"""What processors of some kinds can run."""

from pathlib import Path

import pytest

from engine.kernels import instruction_sets
from engine.kernels.instruction_sets import AMX, X86_SETS, known_sets, processor_features, usable_sets

HASWELL = "fpu sse4_2 avx avx2 fma f16c bmi1 bmi2 movbe"
SKYLAKE = f"{HASWELL} avx512f avx512bw avx512cd avx512dq avx512vl"
CASCADE_LAKE = f"{SKYLAKE} avx512_vnni"
ZEN_4 = f"{CASCADE_LAKE} avx512vbmi avx512_bf16 avx512_vbmi2"
SAPPHIRE_RAPIDS = f"{ZEN_4} amx_tile amx_int8 amx_bf16 avx512_fp16"


@pytest.mark.parametrize(
    ("features", "best"),
    [
        ("fpu sse2", "portable"),
        (HASWELL, "avx2"),
        (SKYLAKE, "avx2"),
        (CASCADE_LAKE, "avx512"),
        (ZEN_4, "avx512_bf16"),
        (SAPPHIRE_RAPIDS, "amx"),
    ],
)
def test_the_best_set_of_a_processor(features: str, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "request_tile_registers", lambda: True)
    usable = usable_sets(frozenset(features.split()))
    assert usable[0].name == best
    assert usable == X86_SETS[X86_SETS.index(usable[0]) :]


def test_without_leave_to_use_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "request_tile_registers", lambda: False)
    assert [known.name for known in usable_sets(AMX.features)] == ["avx512_bf16", "avx512", "avx2", "portable"]


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "riscv64"])
def test_other_machines_get_the_portable_set(machine: str) -> None:
    assert [known.name for known in known_sets(machine)] == ["portable"]


def test_features_are_those_of_every_core(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu avx2\nbugs\t: x\n"
    )
    assert processor_features(cpuinfo) == {"fpu", "avx2"}
    assert processor_features(tmp_path / "none") == frozenset()
