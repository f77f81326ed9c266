"""From tensors to weights: the values of the hub's source, in the file's own bytes, whatever layout and formats."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import LoadError
from engine.model.config import ModelConfig
from engine.quant.matrix import Matrix
from engine.weights.conversion import Conversion
from engine.weights.gguf import GgufWeights, open_gguf
from engine.weights.hub import open_hub
from engine.weights.source import DeltaNetWeights, HeadGroups, WeightSource
from tests.support import checkpoints, gguf_files
from tests.support.checkpoints import CONFIG, random_tensors
from tests.support.gguf_files import Layout, converted, in_one_type, in_turn, metadata
from tests.support.refusals import refused

LARGER = CONFIG | {  # every row is a whole number of any format's blocks
    "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128,
    "linear_key_head_dim": 64, "linear_value_head_dim": 64, "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256, "vocab_size": 64,
}  # fmt: skip
EXACT = Conversion(torch.float16, torch.device("cpu"))  # neither widens nor narrows what is in the file


def _bf16(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random tensors that bf16 holds exactly."""
    return {name: tensor.bfloat16() for name, tensor in random_tensors(config).items()}


TENSORS = _bf16(CONFIG)


def _write(
    folder: Path,
    layout: Layout | None = None,
    tensors: Mapping[str, Tensor] = TENSORS,
    keys: dict[str, Any] | None = None,
    kind: Callable[[str], Type] = in_one_type(Type.BF16),  # noqa: B008
    **options: Any,
) -> Path:
    folder.mkdir(exist_ok=True)
    gguf_files.write(
        folder / "m.gguf", converted(tensors, CONFIG, layout), metadata(CONFIG) | (keys or {}), kind, **options
    )
    return next(iter(sorted(folder.glob("*.gguf"))))


def _hub(folder: Path, tensors: Mapping[str, Tensor] = TENSORS, config: Mapping[str, Any] = CONFIG) -> WeightSource:
    return open_hub(checkpoints.write(folder, tensors, config)).weights(EXACT)


def _values(weights: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every matrix's and vector's values in fp32, by a path through the fields."""
    if isinstance(weights, Tensor):
        yield path, weights.float()
    elif isinstance(weights, Matrix):
        for i in range(len(weights.parts)):
            yield f"{path}[{i}]", weights.dense(i).float()
    elif is_dataclass(weights):
        for field in fields(weights):
            yield from _values(getattr(weights, field.name), f"{path}.{field.name}")


def _rows(values: Tensor, groups: HeadGroups, num_heads: int, size: int) -> Tensor:
    starts = [groups.offset + head * groups.stride for head in range(num_heads)]
    return torch.cat([values[start : start + size] for start in starts])


def _by_kind(net: DeltaNetWeights, config: ModelConfig) -> dict[str, Tensor]:
    """A DeltaNet's values with the projected rows in head order: q, k, v, z, and b with a."""
    heads, ratio = config.linear_num_key_heads, config.linear_num_value_heads // config.linear_num_key_heads
    key, value = config.linear_key_head_dim, ratio * config.linear_value_head_dim
    rows = torch.cat([matrix.dense().float() for matrix in net.projections])
    sizes = {"query": key, "key": key, "value": value, "gate": value, "ba": 2 * ratio}
    parts = {kind: _rows(rows, getattr(net, kind), heads, size) for kind, size in sizes.items()}
    assert sum(map(len, parts.values())) == len(rows)
    rest = ("conv", "decay_rate", "dt_bias", "norm", "out")
    return parts | {name: dict(_values(getattr(net, name), name)).popitem()[1] for name in rest}


def _all_values(source: WeightSource, config: ModelConfig) -> dict[str, Tensor]:
    """Everything a source has, and that it has no more."""
    out = dict(_values(source.embedding(), "embedding")) | dict(_values(source.lm_head(), "lm_head"))
    out["norm"] = source.final_norm()
    for i, kind in enumerate(config.layer_types):
        out |= {f"{i}.input": source.input_norm(i), f"{i}.post": source.post_norm(i)}
        if kind == "full_attention":
            out |= _values(source.attention(i), f"{i}.attention")
        else:
            out |= {f"{i}.{name}": value for name, value in _by_kind(source.delta_net(i), config).items()}
        out |= _values(source.mlp(i) if i in config.dense_layers else source.moe(i), f"{i}.feed_forward")
    source.finish()
    return out


def _assert_same(file: Path, folder: Path, tensors: Mapping[str, Tensor] = TENSORS, **config: Any) -> None:
    checkpoint = open_gguf(file)
    theirs = _all_values(_hub(folder, tensors, CONFIG | config), checkpoint.config)
    ours = _all_values(checkpoint.weights(EXACT), checkpoint.config)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 4 * 10
    for name, values in ours.items():
        assert values.shape == theirs[name].shape, name
        torch.testing.assert_close(values, theirs[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("old_projections", [False, True])
@pytest.mark.parametrize("fused_experts", [False, True])
def test_the_values_of_the_hubs_source(tmp_path: Path, old_projections: bool, fused_experts: bool) -> None:
    _assert_same(_write(tmp_path / "gguf", Layout(old_projections, fused_experts)), tmp_path / "hub")


def test_parts_and_the_vectors_in_half_precision(tmp_path: Path) -> None:
    """Converters of different age keep small tensors in different types; 0.5 and the like are exact in all of them."""
    tensors = {n: (t.float() * 4).round().bfloat16() / 4 for n, t in TENSORS.items() if not n.endswith("A_log")}
    tensors |= {n: torch.zeros_like(t) for n, t in TENSORS.items() if n.endswith("A_log")}
    file = _write(tmp_path / "gguf", tensors=tensors, kind=lambda name: Type.F16, split_max_tensors=20)
    assert len(list(file.parent.iterdir())) > 3
    _assert_same(file, tmp_path / "hub", tensors)


def test_a_shared_gate_in_two_dimensions_and_a_tied_head(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "lm_head.weight"}
    values = converted(tensors, CONFIG)
    for name in values:
        if name.endswith("ffn_gate_inp_shexp.weight"):
            values[name] = values[name].reshape(1, -1)
    gguf_files.write(tmp_path / "m.gguf", values, metadata(CONFIG))
    _assert_same(tmp_path / "m.gguf", tmp_path / "hub", tensors, tie_word_embeddings=True)
    source = open_gguf(tmp_path / "m.gguf").weights(EXACT)
    assert source.lm_head() is source.embedding()


def test_a_dense_layer(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if "layers.1.mlp." not in name}
    size = CONFIG["intermediate_size"], CONFIG["hidden_size"]
    for kind in ("gate", "up", "down"):
        shape = size if kind != "down" else size[::-1]
        tensors[f"model.layers.1.mlp.{kind}_proj.weight"] = torch.randn(shape).bfloat16()
    file = _write(tmp_path / "gguf", tensors=tensors)
    assert open_gguf(file).config.dense_layers == {1}
    _assert_same(file, tmp_path / "hub", tensors, mlp_only_layers=[1])


def test_layers_for_further_tokens_are_left_alone(tmp_path: Path) -> None:
    keys = {"qwen3next.block_count": 5, "qwen3next.nextn_predict_layers": 1}
    values = converted(TENSORS, CONFIG)
    values["blk.4.nextn.eh_proj.weight"] = np.zeros((16, 32), dtype=np.float32)
    values["blk.4.attn_q.weight"] = np.zeros((3, 32), dtype=np.float32)
    gguf_files.write(tmp_path / "m.gguf", values, metadata(CONFIG) | keys)
    _assert_same(tmp_path / "m.gguf", tmp_path / "hub")


MIXED = [kind for kind in Type if kind.name.startswith(("Q2", "Q3", "Q4", "Q5", "Q6", "IQ2", "IQ3", "IQ4"))]
MIXED += [Type.Q8_0, Type.MXFP4, Type.NVFP4, Type.F16, Type.BF16, Type.F32]


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("fused_experts", [False, True])
def test_any_matrix_in_any_format_stays_in_the_files_bytes(tmp_path: Path, turn: int, fused_experts: bool) -> None:
    tensors = _bf16(LARGER)
    values = converted(tensors, LARGER, Layout(old_projections=turn == 2, fused_experts=fused_experts))
    kind = in_turn(MIXED[turn:] + MIXED[:turn])
    kinds = {name: kind(name) for name in values}
    written = gguf_files.write(tmp_path / "m.gguf", values, metadata(LARGER), lambda name: kinds[name])
    checkpoint = open_gguf(tmp_path / "m.gguf")
    source = checkpoint.weights(EXACT)
    matrices = dict(_matrices(source, checkpoint.config))
    source.finish()
    assert {name for name in kinds if not name.endswith(gguf_files.KEPT)} == matrices.keys()
    for name, matrix in matrices.items():
        expected = written[name].reshape(-1, *written[name].shape[-2:])
        assert matrix.format.ggml_id == kinds[name], name
        assert np.array_equal(torch.stack(matrix.parts).numpy(), expected), name
        assert all(part.is_contiguous() for part in matrix.parts)
    stacks = [matrices[f"blk.{i}.ffn_down_exps.weight"] for i in range(2)]
    files = {part.untyped_storage().data_ptr() for stack in stacks for part in stack.parts}
    assert len(files) == 1  # the mapped one: nothing was copied


def _matrices(source: GgufWeights, config: ModelConfig) -> Iterator[tuple[str, Matrix]]:
    """Every matrix under its name in the file, fused experts put together again; the router has a test of its own."""
    yield from {"token_embd.weight": source.embedding(), "output.weight": source.lm_head()}.items()
    source.final_norm()
    for i, kind in enumerate(config.layer_types):
        source.input_norm(i), source.post_norm(i)
        p = f"blk.{i}."
        if kind == "full_attention":
            mixer = source.attention(i)
            yield from zip(
                (f"{p}attn_{name}.weight" for name in ("q", "k", "v", "output")),
                (mixer.query, mixer.key, mixer.value, mixer.out),
                strict=True,
            )
        else:
            net = source.delta_net(i)
            names = ("attn_qkv", "attn_gate", "ssm_ba") if len(net.projections) == 3 else ("ssm_in", "ssm_ba")
            yield from zip((f"{p}{name}.weight" for name in names), net.projections, strict=True)
            yield f"{p}ssm_out.weight", net.out
        moe = source.moe(i)
        shared, experts = moe.shared, moe.experts
        yield from {
            f"{p}ffn_gate_shexp.weight": shared.gate,
            f"{p}ffn_up_shexp.weight": shared.up,
            f"{p}ffn_down_shexp.weight": shared.down,
            f"{p}ffn_down_exps.weight": experts.down,
        }.items()
        gate, up = experts.gate, experts.up
        halves = gate.parts[0].data_ptr() + gate.parts[0].nbytes == up.parts[0].data_ptr()
        if halves:
            both = tuple(torch.cat(pair) for pair in zip(gate.parts, up.parts, strict=True))
            yield f"{p}ffn_gate_up_exps.weight", Matrix(gate.format, 2 * gate.rows, gate.columns, both)
        else:
            yield from {f"{p}ffn_gate_exps.weight": gate, f"{p}ffn_up_exps.weight": up}.items()


def test_a_quantised_embedding_is_read_by_rows(tmp_path: Path) -> None:
    written = gguf_files.write(
        tmp_path / "m.gguf", converted(_bf16(LARGER), LARGER), metadata(LARGER), in_one_type(Type.Q8_0)
    )
    embedding = open_gguf(tmp_path / "m.gguf").weights(EXACT).embedding()
    rows = embedding.dense_rows(torch.tensor([3, 63, 3]))
    assert np.array_equal(rows.numpy(), dequantize(written["token_embd.weight"], Type.Q8_0)[[3, 63, 3]])


def test_the_shared_gate_may_be_quantised(tmp_path: Path) -> None:
    values = converted(_bf16(LARGER), LARGER)
    name = "blk.0.ffn_gate_inp_shexp.weight"
    written = gguf_files.write(
        tmp_path / "m.gguf", values, metadata(LARGER), lambda n: Type.Q8_0 if n == name else Type.F32
    )
    gate = open_gguf(tmp_path / "m.gguf").weights(EXACT).moe(0).shared_gate
    assert np.array_equal(gate.numpy(), dequantize(written[name], Type.Q8_0))


def test_a_router_is_halved_only_when_nothing_is_lost(tmp_path: Path) -> None:
    values: dict[str, NDArray[np.float32]] = converted(TENSORS, CONFIG)
    values["blk.1.ffn_gate_inp.weight"] /= 3
    gguf_files.write(tmp_path / "m.gguf", values, metadata(CONFIG))
    for dtype in (torch.bfloat16, torch.float32):
        source = open_gguf(tmp_path / "m.gguf").weights(Conversion(dtype, torch.device("cpu")))
        routers = [source.moe(i).router for i in range(2)]
        assert [router.format.name for router in routers] == ["BF16", "F32"]
        for i, router in enumerate(routers):
            assert np.array_equal(router.dense().float().numpy(), values[f"blk.{i}.ffn_gate_inp.weight"])


def test_dense_weights_can_be_converted_and_quantised_ones_not_again(tmp_path: Path) -> None:
    write = gguf_files.write
    write(tmp_path / "a.gguf", converted(_bf16(LARGER), LARGER), metadata(LARGER))
    converting = Conversion(torch.bfloat16, torch.device("cpu"), "int8")
    reported: list[int] = []
    source = open_gguf(tmp_path / "a.gguf").weights(converting, reported.append)
    assert source.moe(0).experts.up.format.name == "Q8_0"
    assert sum(reported) == 3 * 3 * 256 * 256 * 2 + 3 * 256 * 256 * 2 + 3 * 256 * 4  # experts, shared one, router
    wide = open_gguf(tmp_path / "a.gguf").weights(Conversion(torch.float32, torch.device("cpu")))
    assert (wide.embedding().format.name, wide.moe(0).experts.up.format.name) == ("F32", "F32")
    write(tmp_path / "b.gguf", converted(_bf16(LARGER), LARGER), metadata(LARGER), in_one_type(Type.Q4_0))
    with pytest.raises(LoadError, match=r"--quantization int8 needs dense weights .* but blk\.0\..* is Q4_0 already"):
        open_gguf(tmp_path / "b.gguf").weights(converting)


def _load(path: Path) -> None:
    checkpoint = open_gguf(path)
    _all_but_values(checkpoint.weights(EXACT), checkpoint.config)


def _all_but_values(source: WeightSource, config: ModelConfig) -> None:
    source.embedding(), source.lm_head(), source.final_norm()
    for i, kind in enumerate(config.layer_types):
        source.input_norm(i), source.post_norm(i), source.moe(i)
        source.attention(i) if kind == "full_attention" else source.delta_net(i)
    source.finish()


def _without(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in names:
            del values[name]

    return change


def _with(name: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.update({name: np.zeros(shape, dtype=np.float32)})


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "missing": (_without("blk.3.ffn_up_exps.weight"), r"lacks blk\.3\.ffn_up_exps\.weight"),
    "missing vector": (_without("blk.0.ssm_a"), r"lacks blk\.0\.ssm_a"),
    "missing projection": (_without("blk.0.attn_qkv.weight"), r"lacks blk\.0\.attn_qkv\.weight"),
    "missing mixer": (
        _without(*(f"blk.1.attn_{name}.weight" for name in ("q", "k", "v", "output"))),
        r"lacks blk\.1\.attn_k\.weight, blk\.1\.attn_output\.weight, blk\.1\.attn_q\.weight and 1 more",
    ),
    "extra": (_with("blk.0.attn_q.bias", 3), r"does not know: blk\.0\.attn_q\.bias"),
    "a layer more": (_with("blk.4.attn_norm.weight", 16), r"does not know: blk\.4\.attn_norm\.weight"),
    "both layouts": (_with("blk.0.ssm_in.weight", 48, 16), r"does not know: blk\.0\.attn_gate\.weight, blk\.0\.attn_q"),
    "experts twice": (_with("blk.0.ffn_gate_up_exps.weight", 3, 12, 16), r"has blk\.0\.ffn_gate_exps\.weight, .*twice"),
    "misshapen": (
        _with("blk.1.attn_k.weight", 16, 17),
        r"blk\.1\.attn_k\.weight has shape \[16, 17\].* for \[16, 16\]",
    ),
    "misshapen stack": (_with("blk.1.ffn_down_exps.weight", 3, 6, 16), r"has shape \[3, 6, 16\].* for \[3, 16, 6\]"),
    "misshapen vector": (_with("output_norm.weight", 17), r"output_norm\.weight has shape \[17\].* for \[16\]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_strange_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    values = converted(TENSORS, CONFIG)
    change(values)
    gguf_files.write(tmp_path / "m.gguf", values, metadata(CONFIG))
    with refused(tmp_path / "m.gguf", message):
        _load(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _write(tmp_path_factory.mktemp("gguf")).read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_metadata_are_noticed_or_harmless(data: st.DataObject, content: bytes, tmp_path_factory: Any) -> None:
    """Numbers in the header overwritten: sizes that fit nothing, or a model that can be read."""
    damaged = bytearray(content)
    keys = [place.start() for place in re.finditer(rb"qwen3next\.\w[\w.]+|(?:blk|output|token)[\w.]+", content)]
    for place in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4)):
        place += len(re.match(rb"[\w.]+", content[place:])[0]) + 4  # type: ignore[index]
        new = data.draw(st.sampled_from([b"\0", b"\1", b"\xff" * 4, b"\0\0\0\1", b"\0\0\x10\0", b"\xff" * 8]))
        damaged[place : place + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged)
    error = ""
    try:
        _load(path)
    except LoadError as caught:
        error = str(caught)
    assert not error or (str(path) in error and "\n" not in error)
