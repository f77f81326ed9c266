"""The compiled kernels through the table: every operator gives what its reference gives, in every stored format.

Here everything is computed in fp32, so that a wrong field of a descriptor shows and rounding does not.
"""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.batch import PagedKV, RecurrentState, Span
from engine.kernels.build import BuildSettings, find_or_build
from engine.kernels.choice import cpu_kernels, wanted_sets
from engine.kernels.compiler import Compiler
from engine.kernels.library import Library
from engine.kernels.table import Kernels, reference_kernels
from engine.layers.attention import Attention
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.layers.moe import Mlp, SparseMoe
from engine.layers.rope import Rotation
from engine.quant.formats import BY_NAME, FORMATS, FP8_E4M3, int4_format
from engine.quant.matrix import BlockScales, Matrix, dense_matrix
from engine.quant.quantise import quantise_int4
from engine.weights.source import AttentionWeights, DeltaNetWeights, HeadGroups, MlpWeights, MoeWeights

HIDDEN, HEADS, DIM = 256, 4, 32
REFERENCE = reference_kernels()

pytestmark = pytest.mark.skipif(
    Compiler.find(BuildSettings.read(os.environ).compilers) is None, reason="there is no C++ compiler"
)


@pytest.fixture(scope="module")
def library() -> Library:
    settings = replace(BuildSettings.read(os.environ), limit_seconds=280.0)
    return Library(find_or_build(wanted_sets(os.environ.get("DELTALOOP_ISA")), settings).path)


@pytest.fixture(scope="module")
def kernels(library: Library) -> Kernels:
    return cpu_kernels(library, "C++", threads=2, exact=True)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def matrix(rows: int, columns: int, num_parts: int = 1, dtype: torch.dtype = torch.float32) -> Matrix:
    return dense_matrix(*(normal(num_parts, rows, columns) / columns**0.5).to(dtype))


def close(ours: Tensor, theirs: Tensor, error: float = 2e-5) -> bool:
    """Within what the order of fp32 sums may change, unless another error is given."""
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() <= error * theirs.abs().max())


def stored(name: str, rows: int, columns: int) -> Matrix:
    """A matrix in any format; blocks are random but for their 16-bit floats, which are small."""
    if name in ("F32", "F16", "BF16"):
        return matrix(rows, columns, dtype={"F32": torch.float32, "F16": torch.float16}.get(name, torch.bfloat16))
    if name == "INT4":
        return Matrix(int4_format(64), rows, columns, (quantise_int4(normal(rows, columns), 64),))
    known = BY_NAME[name]
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, 256, (rows, known.row_bytes(columns)), generator=generator, dtype=torch.uint8)
    if known is FP8_E4M3:
        scales = BlockScales(16, 128, ((normal(-(-rows // 16), -(-columns // 128)) / 64).contiguous(),))
        return Matrix(known, rows, columns, (data & 0xBF,), scales)  # no NaN
    blocks = data.view(rows, -1, known.block_bytes)
    if name == "NVFP4":
        blocks[..., :4] &= 0x3F
    elif name == "MXFP4":
        blocks[..., 0] = 120 + blocks[..., 0] % 8
    else:
        at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(name, (0, 2))
        for start in at[: 2 if name in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K") else 1]:
            blocks[..., start : start + 2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
    return Matrix(known, rows, columns, (data,))


@pytest.mark.parametrize("name", [*(known.name for known in FORMATS), "INT4"])
def test_projections_of_every_format(kernels: Kernels, name: str) -> None:
    matrices = (stored(name, 40, 512), matrix(7, 512))
    x, factor = normal(5, 512), normal(512)
    normed = REFERENCE.rms_norm(x, factor, 1e-6)  # the reference of a projection would round it for bf16
    expected = torch.cat([normed @ part.dense().float().t() for part in matrices], dim=-1)
    assert close(kernels.project(x, factor, 1e-6, matrices), expected)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_K", "IQ3_S", "INT4"])
def test_embedding(kernels: Kernels, name: str) -> None:
    embedding, ids = stored(name, 40, 512), torch.tensor([39, 0, 17])
    assert close(kernels.embed(embedding, ids), REFERENCE.embed(embedding, ids))


def test_norm(kernels: Kernels) -> None:
    x, factor = normal(3, 4, 48), normal(48)
    assert close(kernels.rms_norm(x, factor, 1e-6), REFERENCE.rms_norm(x, factor, 1e-6))


def both(kernels: Kernels, compute: Callable[[Kernels, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What an operator that may write into x returns for the same x."""
    return compute(kernels, normal(5, HIDDEN)), compute(REFERENCE, normal(5, HIDDEN))


def test_projection_that_adds(kernels: Kernels) -> None:
    y, weight = normal(5, 96), matrix(HIDDEN, 96)
    assert close(*both(kernels, lambda table, x: table.add_projection(x, y, weight)))
    x = normal(5, HIDDEN)
    assert kernels.add_projection(x, y, weight) is x


def feed_forward(size: int, num_parts: int = 1) -> MlpWeights:
    return MlpWeights(matrix(size, HIDDEN, num_parts), matrix(size, HIDDEN, num_parts), matrix(HIDDEN, size, num_parts))


def test_mlp(kernels: Kernels) -> None:
    mlp = Mlp(normal(HIDDEN), 1e-6, feed_forward(96))
    assert close(*both(kernels, lambda table, x: table.add_mlp(x, mlp)))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("router", [torch.float32, torch.bfloat16])
def test_moe(kernels: Kernels, normalise: bool, router: torch.dtype) -> None:
    weights = MoeWeights(matrix(8, HIDDEN, dtype=router), feed_forward(64, 8), feed_forward(96), normal(HIDDEN))
    moe = SparseMoe(normal(HIDDEN), 1e-6, 3, normalise, weights)
    assert close(*both(kernels, lambda table, x: table.add_moe(x, moe)))


def spans(*blocks: int) -> tuple[Span, ...]:
    """Two sequences: one that begins, one that goes on at position 6."""
    first, second = torch.tensor(blocks[:1]), torch.tensor(blocks[1:])
    return Span(0, 4, 0, 2, first), Span(4, 1, 6, 0, second)


@pytest.mark.parametrize("grouped", [True, False])
def test_delta_net(kernels: Kernels, grouped: bool) -> None:
    key, value = 16, 2 * 16  # of a key head, which serves two value heads
    if grouped:
        step = 2 * key + 2 * value
        places = [HeadGroups(offset, step) for offset in (0, key, 2 * key, 2 * key + value)]
    else:
        places = [HeadGroups(0, key), HeadGroups(2 * key, key), HeadGroups(4 * key, value)]
        places.append(HeadGroups(4 * key + 2 * value, value))
    ba = HeadGroups(4 * key + 4 * value, 4)
    conv, unused = normal(4 * key + 2 * value, 4), matrix(1, 1)
    weights = DeltaNetWeights((), *places, ba, conv, -normal(4).exp(), normal(4), normal(16), unused)
    net = GatedDeltaNet(2, 4, key, 16, 1e-6, weights)
    projected = normal(5, ba.offset + 8)
    states = [RecurrentState(normal(3, 4, key, 16), normal(3, 3, 4 * key + 2 * value)) for _ in range(2)]
    ours = kernels.delta_net_mix(net, projected, states[0], spans(0, 0))
    assert close(ours, REFERENCE.delta_net_mix(net, projected, states[1], spans(0, 0)))
    assert close(states[0].delta, states[1].delta)
    assert close(states[0].conv, states[1].conv)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention(kernels: Kernels, dtype: torch.dtype) -> None:
    unused = matrix(1, 1)
    attention = Attention(
        HEADS, 2, DIM, 1e-6, AttentionWeights(unused, unused, unused, unused, normal(DIM), normal(DIM))
    )
    projected = normal(5, (2 * HEADS + 2 * 2) * DIM)
    angles = normal(5, 4)
    rotation = Rotation(angles.cos(), angles.sin())
    kv_rows = torch.tensor([12, 13, 14, 15, 2])  # of blocks 3; 5, 0, 4 positions a block
    memories = [PagedKV(*(normal(6, 4, 2, DIM).to(dtype) for _ in range(2))) for _ in range(2)]
    batch = spans(3, 5, 0)
    ours = kernels.attention_mix(attention, projected, rotation, kv_rows, memories[0], batch)
    theirs = REFERENCE.attention_mix(attention, projected, rotation, kv_rows, memories[1], batch)
    assert close(ours, theirs, 2e-5 if dtype is torch.float32 else 0.01)  # with a cache in bf16 products are, too
    assert close(memories[0].keys.float(), memories[1].keys.float())
    assert close(memories[0].values.float(), memories[1].values.float())


def test_rounded_products_are_close(library: Library) -> None:
    rounded = cpu_kernels(library, "C++", threads=1, exact=False)
    x = normal(5, 512)
    for name, error in (("BF16", 0.02), ("Q8_0", 0.02), ("Q6_K", 0.05), ("FP8_E4M3", 0.02)):
        weight = stored(name, 40, 512)
        ours, theirs = rounded.project(x, None, 0.0, (weight,)), REFERENCE.project(x, None, 0.0, (weight,))
        assert 0 < (ours - theirs).abs().max() <= error * theirs.abs().max(), name


def test_what_is_misshapen_never_gets_to_the_library(kernels: Kernels) -> None:
    weight = matrix(16, 64)
    for x in (normal(2, 32), normal(2, 64).bfloat16(), normal(64, 2).t()):
        with pytest.raises(AssertionError):
            kernels.project(x, None, 0.0, (weight,))
