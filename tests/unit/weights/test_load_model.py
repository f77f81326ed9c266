"""From a model folder to weights: every layout a checkpoint comes in, and every way it can be broken."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.errors import LoadError
from engine.kernels.table import Kernels
from engine.loading import load_model
from engine.model.config import ModelConfig
from engine.model.qwen3_next import Qwen3Next
from engine.quant.formats import BF16, F16, F32
from engine.quant.matrix import Matrix
from engine.weights.checkpoint import open_checkpoint
from tests.support.checkpoints import CONFIG, fused, random_tensors, write
from tests.support.refusals import refused

CPU = torch.device("cpu")
TENSORS = random_tensors(CONFIG)
INDEX = "model.safetensors.index.json"


def _load(
    folder: Path, dtype: torch.dtype = torch.float32, progress: Callable[[int, int], None] | None = None
) -> Qwen3Next:
    return load_model(open_checkpoint(folder), dtype, CPU, progress=progress)[0]


def _weights(model: Qwen3Next) -> dict[str, Tensor]:
    """Every tensor of a model by a path through its fields, each matrix of a stack by itself."""
    out: dict[str, Tensor] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, Tensor):
            out[path] = value
        elif isinstance(value, Matrix):
            out.update({f"{path}.{i}": value.dense(i) for i in range(len(value.parts))})
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                walk(item, f"{path}.{i}")
        elif dataclasses.is_dataclass(value) and not isinstance(value, ModelConfig | Kernels):
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name), f"{path}.{field.name}")

    walk(model, "model")
    return out


def _assert_same(a: Qwen3Next, b: Qwen3Next) -> None:
    ours, theirs = _weights(a), _weights(b)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 4 * 10
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Qwen3Next:
    return _load(write(tmp_path_factory.mktemp("plain"), TENSORS, CONFIG))


def test_tensors_go_where_their_names_say(plain: Qwen3Next) -> None:
    expert, net = "model.layers.2.mlp.experts.1.", "model.layers.0.linear_attn."
    weights = _weights(plain)
    for kind in ("gate", "up", "down"):
        ours = weights[f"model.layers.2.feed_forward.weights.experts.{kind}.1"]
        assert torch.equal(ours, TENSORS[f"{expert}{kind}_proj.weight"])
    attention = weights["model.layers.1.mixer.weights.query.0"]
    assert torch.equal(attention, TENSORS["model.layers.1.self_attn.q_proj.weight"])
    assert torch.equal(weights["model.layers.0.mixer.weights.projections.0.0"], TENSORS[net + "in_proj_qkvz.weight"])
    assert torch.equal(weights["model.layers.0.mixer.weights.conv"], TENSORS[net + "conv1d.weight"][:, 0])
    assert torch.equal(weights["model.lm_head.0"], TENSORS["lm_head.weight"])


def test_norms_are_factors_and_decays_are_rates(plain: Qwen3Next) -> None:
    net, weights = "model.layers.0.linear_attn.", _weights(plain)
    assert torch.equal(weights["model.layers.0.mixer.weights.decay_rate"], -torch.exp(TENSORS[net + "A_log"]))
    assert torch.equal(weights["model.layers.0.mixer.weights.norm"], TENSORS[net + "norm.weight"])
    for path, name in {
        "model.norm": "model.norm.weight",
        "model.layers.3.input_norm": "model.layers.3.input_layernorm.weight",
        "model.layers.3.feed_forward.norm": "model.layers.3.post_attention_layernorm.weight",
        "model.layers.3.mixer.weights.q_norm": "model.layers.3.self_attn.q_norm.weight",
        "model.layers.3.mixer.weights.k_norm": "model.layers.3.self_attn.k_norm.weight",
    }.items():
        assert torch.equal(weights[path], 1 + TENSORS[name])


@pytest.mark.parametrize("num_shards", [1, 3])
def test_fused_experts_and_shards_load_to_the_same_model(num_shards: int, plain: Qwen3Next, tmp_path: Path) -> None:
    _assert_same(_load(write(tmp_path / "a", TENSORS, CONFIG, num_shards)), plain)
    _assert_same(_load(write(tmp_path / "b", fused(TENSORS, CONFIG), CONFIG, num_shards)), plain)


def test_shards_without_an_index(plain: Qwen3Next, tmp_path: Path) -> None:
    folder = write(tmp_path, TENSORS, CONFIG, 2)
    (folder / INDEX).unlink()
    _assert_same(_load(folder), plain)


def test_the_multi_token_head_is_left_alone(plain: Qwen3Next, tmp_path: Path) -> None:
    mtp = {"mtp.fc.weight": torch.zeros(3, 3), "mtp.layers.0.mlp.experts.0.up_proj.weight": torch.zeros(2)}
    _assert_same(_load(write(tmp_path, TENSORS | mtp, CONFIG)), plain)


def test_tied_embeddings_with_and_without_lm_head(tmp_path: Path) -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    without = {name: t for name, t in TENSORS.items() if name != "lm_head.weight"}
    for i, tensors in enumerate((TENSORS, without)):
        model = _load(write(tmp_path / str(i), tensors, config))
        assert model.lm_head is model.embedding
        assert torch.equal(model.embedding.dense(), TENSORS["model.embed_tokens.weight"])


def test_weights_are_cast_and_what_must_be_exact_stays_fp32(tmp_path: Path) -> None:
    weights = _weights(_load(write(tmp_path, TENSORS, CONFIG), torch.bfloat16))
    wide = {name.removesuffix(".0").rsplit(".", 1)[1] for name, t in weights.items() if t.dtype == torch.float32}
    norms = {"input_norm", "norm", "q_norm", "k_norm"}
    assert wide == norms | {"router", "decay_rate", "dt_bias", "conv", "shared_gate", "inverse_frequencies"}
    assert torch.equal(weights["model.embedding.0"], TENSORS["model.embed_tokens.weight"].bfloat16())


SIXTEEN_BITS = {"BF16": torch.bfloat16, "F16": torch.float16}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_sixteen_bits_stay_what_they_are_unless_fp32_is_asked_for(name: str, tmp_path: Path) -> None:
    tensors = {name_: tensor.to(SIXTEEN_BITS[name]) for name_, tensor in TENSORS.items()}
    folder = write(tmp_path, tensors, CONFIG)
    for dtype in SIXTEEN_BITS.values():
        model = _load(folder, dtype)
        assert {matrix.format.name for matrix in model.matrices} == {name}
    wide = _load(folder, torch.float32)
    routers = [layer.feed_forward.matrices[0] for layer in wide.layers]
    assert {router.format for router in routers} == {BF16 if name == "BF16" else F16}  # multiplied in fp32 anyway
    assert {matrix.format for matrix in wide.matrices if matrix not in routers} == {F32}
    assert torch.equal(wide.lm_head.dense(), tensors["lm_head.weight"].float())


def test_a_router_in_fp32_becomes_bf16_where_that_is_exact(tmp_path: Path) -> None:
    exact = "model.layers.1.mlp.gate.weight"
    model = _load(write(tmp_path, TENSORS | {exact: TENSORS[exact].bfloat16().float()}, CONFIG), torch.bfloat16)
    assert [layer.feed_forward.matrices[0].format for layer in model.layers] == [F32, BF16, F32, F32]
    assert torch.equal(model.layers[1].feed_forward.matrices[0].dense(), TENSORS[exact].bfloat16())


def test_progress_counts_bytes_up_to_the_files(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    _load(write(tmp_path, TENSORS, CONFIG, 2), progress=lambda done, total: calls.append((done, total)))
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert sum(t.nbytes for t in TENSORS.values()) <= done[-1] <= calls[-1][1]
    assert {t for _, t in calls} == {sum(f.stat().st_size for f in tmp_path.glob("*.safetensors"))}


def test_bytes_of_weights_are_those_of_the_matrices(tmp_path: Path) -> None:
    folder = write(tmp_path, TENSORS, CONFIG)
    _, num_bytes = load_model(open_checkpoint(folder), torch.float32, CPU)
    assert num_bytes == sum(
        t.nbytes for name, t in TENSORS.items() if t.dim() == 2 and "shared_expert_gate" not in name
    )


def test_matrices_are_the_files_bytes_and_not_copies(tmp_path: Path) -> None:
    """Whoever changes the file sees it in the weights. (Do not do this at home.)"""
    folder = write(tmp_path, TENSORS, CONFIG)
    model = _load(folder)
    file = folder / "model.safetensors"
    length = file.stat().st_size
    with file.open("r+b") as opened:
        header = 8 + int.from_bytes(opened.read(8), "little")
        opened.seek(header)
        opened.write(bytes(length - header))
    assert not any(matrix.dense(i).any() for matrix in model.matrices for i in range(len(matrix.parts)))


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "lm_head.weight"}
    tensors |= {"model.norm.weight": torch.zeros(17), "model.extra": torch.zeros(1)}
    message = r"norm\.weight has shape \[17\].*; it lacks lm_head\.weight: .*; it has tensors .*: model\.extra$"
    with pytest.raises(LoadError, match=message):
        _load(write(tmp_path, tensors, CONFIG))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    tensors = TENSORS | {"lm_head.weight": TENSORS["lm_head.weight"].to(torch.int8)}
    with pytest.raises(LoadError, match=r"lm_head\.weight is of type I8, not BF16 or F16 or F32$"):
        _load(write(tmp_path, tensors, CONFIG))


def _without_one(folder: Path) -> None:
    write(folder, {n: t for n, t in TENSORS.items() if n != "model.layers.3.mlp.experts.2.up_proj.weight"}, CONFIG)


def _with_one_more(folder: Path) -> None:
    write(folder, TENSORS | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(3)}, CONFIG)


def _wrong_shape(folder: Path) -> None:
    write(folder, TENSORS | {"model.layers.1.self_attn.k_proj.weight": torch.zeros(16, 17)}, CONFIG)


def _wrong_fused_shape(folder: Path) -> None:
    write(folder, fused(TENSORS, CONFIG) | {"model.layers.1.mlp.experts.down_proj": torch.zeros(3, 6, 16)}, CONFIG)


def _twice(folder: Path) -> None:
    write(folder, TENSORS | fused(TENSORS, CONFIG), CONFIG)


def _two_models(folder: Path) -> None:
    write(folder, TENSORS, CONFIG)
    (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())


def _cut_off(folder: Path) -> None:
    file = write(folder, TENSORS, CONFIG) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _no_header(folder: Path) -> None:
    (write(folder, TENSORS, CONFIG) / "model.safetensors").write_bytes(b"")


def _shard_gone(folder: Path) -> None:
    (write(folder, TENSORS, CONFIG, 3) / "model-00002-of-00003.safetensors").unlink()


def _index_cut_off(folder: Path) -> None:
    index = write(folder, TENSORS, CONFIG, 2) / INDEX
    index.write_text(index.read_text()[:-30])


def _index_without_map(folder: Path) -> None:
    (write(folder, TENSORS, CONFIG, 2) / INDEX).write_text("{}")


def _index_is_a_list(folder: Path) -> None:
    (write(folder, TENSORS, CONFIG, 2) / INDEX).write_text("[1]")


def _index_of_numbers(folder: Path) -> None:
    (write(folder, TENSORS, CONFIG, 2) / INDEX).write_text(json.dumps({"weight_map": {"a": 1, "b": "x"}}))


def _no_weights(folder: Path) -> None:
    (write(folder, TENSORS, CONFIG) / "model.safetensors").unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing tensor": (_without_one, r"lacks model\.layers\.3\.mlp\.experts\.2\.up_proj\.weight"),
    "extra tensor": (_with_one_more, r"does not know: model\.layers\.0\.self_attn\.q_proj\.bias"),
    "wrong shape": (_wrong_shape, r"k_proj\.weight has shape \[16, 17\].* asks for \[16, 16\]"),
    "wrong fused shape": (_wrong_fused_shape, r"down_proj has shape \[3, 6, 16\].* asks for \[3, 16, 6\]"),
    "per-expert and fused": (_twice, r"has model\.layers\.\d\.mlp\.experts\..* twice: leave"),
    "two models in one folder": (_two_models, r"twice"),
    "file cut off": (_cut_off, r"model\.safetensors is not a whole safetensors file.* download it again"),
    "empty file": (_no_header, r"model\.safetensors is not a whole safetensors file.* download it again"),
    "shard gone": (_shard_gone, r"lacks model-00002-of-00003\.safetensors, named in .*: the download is incomplete"),
    "index cut off": (_index_cut_off, r"index\.json cannot be read"),
    "index without a map": (_index_without_map, r"index\.json cannot be read"),
    "index is a list": (_index_is_a_list, r"index\.json cannot be read"),
    "index names numbers": (_index_of_numbers, r"index\.json cannot be read"),
    "no weights": (_no_weights, r"has no \*\.safetensors file: give a folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    break_it, message = BROKEN[name]
    break_it(tmp_path)
    with refused(tmp_path, message):
        _load(tmp_path)


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    write(tmp_path, {n: t for n, t in TENSORS.items() if ".experts." not in n}, CONFIG)
    with pytest.raises(LoadError, match=r"lacks .*down_proj\.weight, .* and 33 more:"):
        _load(tmp_path)
