"""The compiled products (linear layers, experts, embeddings): every format, against fp64 and against themselves."""

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.table import Kernels
from engine.layers.moe import Mlp, SparseMoe
from engine.quant.formats import BF16, BY_NAME, F16, F32, FP8_E4M3, Format, int4_format
from engine.quant.matrix import BlockScales, Matrix, dense_matrix
from engine.quant.packing import can_pack, pack
from engine.weights.source import MlpWeights, MoeWeights
from tests.kernels.cpu_library import compiled, instruction_sets
from tests.support.blocks import random_rows
from tests.support.memories import NAN, normal, same_bits

ISAS = instruction_sets()
FASTEST = ISAS[0]
ROWS = (1, 2, 3, 7, 16, 17, 64, 65)
FORMATS = (*BY_NAME.values(), int4_format(32), int4_format(128))
IDS = [known.name for known in FORMATS]
# What rounding the inputs costs: to 8 bits with a scale per 32, to bf16, not at all. Relative to the outputs' size.
TOLERANCE = {"int8": 0.03, "bf16": 0.008, "fp32": 2e-6}


def form(format: Format) -> str:
    if format in (F32, F16):
        return "fp32"
    return "bf16" if format in (BF16, FP8_E4M3) else "int8"


def matrix(format: Format, rows: int, columns: int, seed: int, count: int = 1) -> Matrix:
    """Random weights with outputs of about the size of the inputs."""
    parts = tuple(random_rows(format, rows, columns, seed + 1000 * i) for i in range(count))
    scales = None
    if format is FP8_E4M3:
        shape = (count, -(-rows // 128), -(-columns // 128))
        scales = BlockScales(128, 128, tuple((normal(*shape, seed=seed).abs() * 1e-3 + 1e-4).unbind()))
    return Matrix(format, rows, columns, parts, scales)


def error(out: Tensor, truth: Tensor) -> float:
    assert out.isfinite().all()
    return float((out.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def inputs(rows: int, columns: int, seed: int) -> Tensor:
    x = normal(rows, columns, seed=seed)
    x[:, 3::97] *= 8  # channels that stand out, as real activations have
    return x


def product(x: Tensor, weights: Matrix, index: int = 0) -> Tensor:
    return x.double() @ weights.dense(index).double().t()


@pytest.mark.parametrize("format", FORMATS, ids=IDS)
@pytest.mark.parametrize("isa", ISAS)
def test_project_against_fp64(isa: str, format: Format) -> None:
    kernels, weights = compiled(isa), matrix(format, 40, 512, seed=1)
    for rows in ROWS:
        x = inputs(rows, 512, seed=rows)
        assert error(kernels.project(x, None, 0.0, [weights]), product(x, weights)) < TOLERANCE[form(format)]


@pytest.mark.parametrize("format", FORMATS, ids=IDS)
def test_exact_project_against_fp64(format: Format) -> None:
    """With dtype float32 no input is rounded, whatever the weights are stored in."""
    weights, x = matrix(format, 40, 512, seed=1), inputs(65, 512, seed=2)
    assert (
        error(compiled(FASTEST, exact=True).project(x, None, 0.0, [weights]), product(x, weights)) < TOLERANCE["fp32"]
    )


@pytest.mark.parametrize("format", FORMATS, ids=IDS)
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_does_not_depend_on_its_company(isa: str, format: Format) -> None:
    weights, x = matrix(format, 72, 512, seed=3), inputs(65, 512, seed=4)
    whole = compiled(isa, threads=2).project(x, None, 0.0, [weights])
    start = 0
    for threads, rows in enumerate((1, 2, 7, 16, 17, 5), start=1):
        part = compiled(isa, threads=threads % 3 + 1).project(x[start : start + rows].clone(), None, 0.0, [weights])
        assert same_bits(part, whole[start : start + rows])
        start += rows


PACKABLE = [format for format in FORMATS if can_pack(matrix(format, 16, 512, seed=1))]


def test_all_block_types_are_packed_but_those_with_codebooks() -> None:
    blocks = {format.name for format in FORMATS if form(format) == "int8"}
    assert blocks - {format.name for format in PACKABLE} == {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}
    assert not can_pack(matrix(BY_NAME["Q4_K"], 40, 512, seed=1))


@pytest.mark.parametrize("format", PACKABLE, ids=lambda f: f.name)
@pytest.mark.parametrize("isa", ISAS)
def test_packed_weights_give_the_same_bits(isa: str, format: Format) -> None:
    kernels, weights = compiled(isa), matrix(format, 48, 512, seed=3, count=2)
    assert kernels.pack is not None
    packed = kernels.pack(replace(weights, parts=tuple(torch.stack(weights.parts))))
    assert packed.packed
    assert all(map(torch.equal, packed.parts, pack(weights).parts))
    for rows in ROWS:
        x = inputs(rows, 512, seed=4)
        assert same_bits(kernels.project(x, None, 0.0, [packed]), kernels.project(x, None, 0.0, [weights]))
    exact, x = compiled(isa, exact=True), inputs(5, 512, seed=4)
    assert same_bits(exact.project(x, None, 0.0, [packed]), exact.project(x, None, 0.0, [weights]))


@pytest.mark.parametrize("was_used", [False, True])
def test_from_now_on_the_packed_copy_is_read(was_used: bool) -> None:
    """What the matrix itself holds afterwards no longer matters."""
    kernels, weights, x = compiled(FASTEST), matrix(BY_NAME["Q4_K"], 48, 512, seed=3, count=2), inputs(5, 512, seed=4)
    expected = kernels.project(x, None, 0.0, [replace(weights, parts=tuple(map(torch.clone, weights.parts)))])
    if was_used:
        assert same_bits(kernels.project(x, None, 0.0, [weights]), expected)
    assert kernels.repack is not None
    kernels.repack(weights)
    assert not weights.packed
    for part in weights.parts:
        part.zero_()
    assert same_bits(kernels.project(x, None, 0.0, [weights]), expected)


@pytest.mark.parametrize("format", [f for f in FORMATS if form(f) != "bf16"], ids=lambda f: f.name)
def test_instruction_sets_agree(format: Format) -> None:
    """8-bit products are exact within a group and fp32 ones add alike; only bf16 instructions add in their own ways."""
    weights, x = matrix(format, 40, 512, seed=5), inputs(21, 512, seed=6)
    first, *others = (compiled(isa).project(x, None, 0.0, [weights]) for isa in ISAS)
    assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (16, 31), (17, 33), (50, 258), (33, 1025)])
@pytest.mark.parametrize("isa", ISAS)
def test_odd_shapes(isa: str, rows: int, columns: int, dtype: torch.dtype) -> None:
    weights = dense_matrix(normal(rows, columns, seed=7).to(dtype))
    for tokens in (1, 5, 66):
        x = normal(tokens, columns, seed=8)
        limit = TOLERANCE["bf16" if dtype is torch.bfloat16 else "fp32"]
        assert error(compiled(isa).project(x, None, 0.0, [weights]), product(x, weights)) < limit


@pytest.mark.parametrize("tokens", [1, 65, 600])
def test_matrices_stand_side_by_side_behind_the_norm(tokens: int) -> None:
    kernels = compiled(FASTEST)
    group = [matrix(BY_NAME["Q4_K"], 48, 256, 1), matrix(BF16, 7, 256, 2), matrix(BY_NAME["Q6_K"], 32, 256, 3)]
    x, factor = inputs(tokens, 256, seed=9), normal(256, seed=10)
    normed = kernels.rms_norm(x, factor, 1e-5)
    expected = [kernels.project(normed, None, 0.0, [weights]) for weights in group]
    assert same_bits(kernels.project(x, factor, 1e-5, group), torch.cat(expected, dim=1))
    truth = x.double() * (x.double().square().mean(1, keepdim=True) + 1e-5).rsqrt() * factor.double()
    assert error(normed, truth) < 1e-6


@pytest.mark.parametrize("tokens", [1, 17, 513])
def test_add_projection(tokens: int) -> None:
    kernels, weights = compiled(FASTEST), matrix(BY_NAME["Q5_K"], 40, 256, seed=1)
    x, y = normal(tokens, 40, seed=2), inputs(tokens, 256, seed=3)
    expected = x + kernels.project(y, None, 0.0, [weights])
    assert same_bits(kernels.add_projection(x.clone(), y, weights), expected)


@pytest.mark.parametrize("format", [f for f in FORMATS if f is not FP8_E4M3], ids=lambda f: f.name)
@pytest.mark.parametrize("isa", ISAS)
def test_embed(isa: str, format: Format) -> None:
    weights, ids = matrix(format, 30, 512, seed=1), torch.tensor([29, 0, 7, 7])
    torch.testing.assert_close(compiled(isa).embed(weights, ids), weights.dense_rows(ids).float(), rtol=1e-6, atol=1e-7)


def before_a_wall(data: Tensor) -> Tensor:
    """A copy of a matrix with memory behind it that ends a process which reads there, as behind a mapped file."""
    size = -(-data.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = torch.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), dtype=torch.uint8)
    no_access = ctypes.CDLL(None).mprotect(ctypes.c_void_p(memory[size:].data_ptr()), ctypes.c_size_t(mmap.PAGESIZE), 0)
    assert no_access == 0
    return memory[size - data.nbytes : size].view(data.shape).copy_(data)


@pytest.mark.parametrize("format", FORMATS, ids=IDS)
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_is_read_behind_the_last_row(isa: str, format: Format) -> None:
    kernels, x, ids = compiled(isa), inputs(5, 512, seed=2), torch.tensor([0, 29])
    for rows in (30, 32):
        weights = matrix(format, rows, 512, seed=1)
        last = replace(weights, parts=tuple(map(before_a_wall, weights.parts)))
        assert same_bits(kernels.project(x, None, 0.0, [last]), kernels.project(x, None, 0.0, [weights]))
        if format is not FP8_E4M3:
            assert same_bits(kernels.embed(last, ids + rows - 30), kernels.embed(weights, ids + rows - 30))


def swiglu(x: Tensor, weights: MlpWeights, index: int = 0) -> Tensor:
    gate, up, down = (m.dense(index).double() for m in (weights.gate, weights.up, weights.down))
    return (F.silu(x @ gate.t()) * (x @ up.t())) @ down.t()


def stack(formats: Sequence[Format], hidden: int, size: int, count: int, seed: int) -> MlpWeights:
    gate, up, down = formats
    return MlpWeights(
        matrix(gate, size, hidden, seed, count),
        matrix(up, size, hidden, seed + 1, count),
        matrix(down, hidden, size, seed + 2, count),
    )


def mixture(name: str, hidden: int = 512, experts: int = 20, top_k: int = 4, shared_size: int = 256) -> SparseMoe:
    """A mixture whose parts are stored as a real file of that name stores them."""
    routed, shared = {
        "Q4_K_M": (("Q4_K", "Q4_K", "Q6_K"), ("Q4_K", "Q4_K", "Q6_K")),
        "mixed": (("Q8_0", "BF16", "IQ4_XS"), ("BF16", "Q5_K", "F32")),
        "BF16": (("BF16",) * 3, ("BF16",) * 3),
        "F32": (("F32",) * 3, ("F32",) * 3),
        "IQ2_M": (("IQ2_S", "IQ2_S", "IQ3_S"), ("IQ2_S", "IQ2_S", "IQ3_S")),
    }[name]
    named = [[BY_NAME[format] for format in formats] for formats in (routed, shared)]
    weights = MoeWeights(
        dense_matrix(normal(experts, hidden, seed=1) / hidden**0.5),
        stack(named[0], hidden, 256, experts, seed=2),
        stack(named[1], hidden, shared_size, 1, seed=5),
        normal(hidden, seed=8) / hidden**0.5,
    )
    return SparseMoe(1 + 0.1 * normal(hidden, seed=9), 1e-6, top_k, True, weights)


def mixed(x: Tensor, moe: SparseMoe) -> Tensor:
    """What the mixture adds, in fp64."""
    weights, wide = moe.weights, x.double()
    wide = wide * (wide.square().mean(1, keepdim=True) + moe.eps).rsqrt() * moe.norm.double()
    probabilities = torch.softmax(wide @ weights.router.dense().double().t(), dim=1)
    shares, chosen = probabilities.topk(moe.top_k, dim=1)
    if moe.normalise:
        shares = shares / shares.sum(1, keepdim=True)
    dense = torch.zeros_like(probabilities).scatter_(1, chosen, shares)
    routed = sum(dense[:, e, None] * swiglu(wide, weights.experts, e) for e in range(weights.router.rows))
    return routed + torch.sigmoid(wide @ weights.shared_gate.double())[:, None] * swiglu(wide, weights.shared)


@pytest.mark.parametrize("name", ["Q4_K_M", "mixed", "BF16", "F32", "IQ2_M"])
@pytest.mark.parametrize("isa", ISAS)
def test_add_moe_against_fp64(isa: str, name: str) -> None:
    kernels, moe = compiled(isa), mixture(name)
    for tokens in (1, 3, 17, 65):
        x = normal(tokens, 512, seed=tokens)
        limit = {"F32": 3e-6, "BF16": 0.02}.get(name, 0.06)
        assert error(kernels.add_moe(x.clone(), moe) - x, mixed(x, moe)) < limit


@pytest.mark.parametrize("name", ["Q4_K_M", "mixed", "BF16", "F32"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_tokens_experts_do_not_depend_on_its_company(isa: str, name: str) -> None:
    moe, x = mixture(name), normal(150, 512, seed=1)
    whole = compiled(isa, threads=2).add_moe(x.clone(), moe)
    start = 0
    for threads, rows in enumerate((1, 2, 7, 16, 17, 64, 5), start=1):
        part = compiled(isa, threads=threads % 3 + 1).add_moe(x[start : start + rows].clone(), moe)
        assert same_bits(part, whole[start : start + rows])
        start += rows


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (5, 5), (19, 3), (512, 10)])
def test_routing(experts: int, top_k: int, normalise: bool) -> None:
    f32 = [F32] * 3
    weights = MoeWeights(
        dense_matrix(normal(experts, 24, seed=1)),
        stack(f32, 24, 9, experts, 2),
        stack(f32, 24, 13, 1, 5),
        normal(24, seed=8),
    )
    moe, x = SparseMoe(normal(24, seed=9), 1e-6, top_k, normalise, weights), normal(33, 24, seed=10)
    assert error(compiled(FASTEST).add_moe(x.clone(), moe) - x, mixed(x, moe)) < 1e-5


def test_a_lower_expert_wins_a_tie() -> None:
    f32 = [F32] * 3
    experts = stack(f32, 16, 8, 4, 2)
    weights = MoeWeights(dense_matrix(torch.zeros(4, 16)), experts, stack(f32, 16, 8, 1, 5), torch.zeros(16))
    moe, x = SparseMoe(torch.ones(16), 1e-6, 2, True, weights), normal(3, 16, seed=1)
    wide = x.double() * (x.double().square().mean(1, keepdim=True) + 1e-6).rsqrt()
    truth = 0.5 * (swiglu(wide, experts, 0) + swiglu(wide, experts, 1)) + 0.5 * swiglu(wide, weights.shared)
    assert error(compiled(FASTEST).add_moe(x.clone(), moe) - x, truth) < 1e-5


@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_add_mlp(tokens: int) -> None:
    mlp = Mlp(1 + 0.1 * normal(256, seed=1), 1e-6, stack([BF16, BF16, F32], 256, 96, 1, seed=2))
    x = normal(tokens, 256, seed=3)
    wide = x.double() * (x.double().square().mean(1, keepdim=True) + 1e-6).rsqrt() * mlp.norm.double()
    assert error(compiled(FASTEST).add_mlp(x.clone(), mlp) - x, swiglu(wide, mlp.weights)) < 0.01


@pytest.mark.parametrize("name", ["Q8_0", "BF16", "F32"])
def test_what_is_not_a_number_stays_in_its_row(name: str) -> None:
    kernels, weights = compiled(FASTEST), matrix(BY_NAME[name], 40, 512, seed=1)
    x = inputs(20, 512, seed=2)
    clean = kernels.project(x, None, 0.0, [weights])
    x[3, 100], x[9, 7] = NAN, float("inf")
    spoilt = kernels.project(x, None, 0.0, [weights])
    good = [i for i in range(20) if i not in (3, 9)]
    assert same_bits(spoilt[good], clean[good])
    assert not spoilt[3].isfinite().any()
    assert not spoilt[9].isfinite().any()


def test_an_expert_nobody_chose_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    moe = mixture("F32", experts=6, top_k=1)
    moe.weights.router.dense()[4:] = 0.0
    moe.weights.router.dense()[:4] *= 5
    x = normal(9, 512, seed=1)
    probabilities = kernels_route(compiled(FASTEST), x, moe)
    unused = [e for e in range(6) if e not in probabilities]
    assert unused
    for weights in (moe.weights.experts.gate, moe.weights.experts.up, moe.weights.experts.down):
        for e in unused:
            weights.dense(e).fill_(NAN)
    assert compiled(FASTEST).add_moe(x.clone(), moe).isfinite().all()


def kernels_route(kernels: Kernels, x: Tensor, moe: SparseMoe) -> set[int]:
    """The experts that the tokens choose when one is chosen."""
    logits = kernels.project(x, moe.norm, moe.eps, [moe.weights.router])
    return set(logits.argmax(1).tolist())
