"""The files that benchmarks make: the same model in every form."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from benchmarks.accuracy import write_twin
from benchmarks.files import Files, Slice
from engine.quant.formats import BY_GGML_ID
from engine.quant.matrix import Matrix
from engine.weights.gguf import open_gguf
from server.model import read_files
from tests.support.gguf_files import converted
from tests.unit.benchmarks.conftest import CONFIG, TENSORS


def test_a_checkpoint_as_gguf(gguf_file: Path) -> None:
    expected = converted(TENSORS, CONFIG)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        found = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        np.testing.assert_array_equal(found.reshape(values.shape), values, name)
        is_plain = values.ndim == 1 or "conv1d" in name or "ffn_gate_inp" in name
        assert tensors[name].tensor_type.name == ("F32" if is_plain else "BF16")


def test_the_file_is_one_that_is_served(gguf_file: Path) -> None:
    checkpoint = open_gguf(gguf_file)
    files = read_files(gguf_file)
    assert checkpoint.config.num_layers == CONFIG["num_hidden_layers"]
    assert files.tokenizer.token_to_id("ab") is not None
    assert files.chat_template is not None


def test_a_twin_has_the_numbers_of_its_file(gguf_file: Path, tmp_path: Path) -> None:
    quantised, twin = tmp_path / "q.gguf", tmp_path / "twin.gguf"
    _quantise(gguf_file, quantised)
    write_twin(quantised, twin)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(quantised).tensors}
    exact = {tensor.name: tensor for tensor in gguf.GGUFReader(twin).tensors}
    assert stored.keys() == exact.keys()
    assert {tensor.tensor_type.name for tensor in stored.values()} == {"F32", "BF16", "Q8_0"}
    for name, tensor in stored.items():
        rows = torch.from_numpy(np.array(tensor.data).view(np.uint8))
        rows = rows.reshape(-1, rows.shape[-1])
        matrix = Matrix(BY_GGML_ID[tensor.tensor_type], len(rows), int(tensor.shape[0]), (rows,))
        values = matrix.dense().float().numpy()
        assert exact[name].tensor_type.name == "F32"
        np.testing.assert_array_equal(exact[name].data.reshape(values.shape), values, name)
    assert open_gguf(twin).config == open_gguf(quantised).config


def _quantise(source: Path, out: Path) -> None:
    """Every other matrix in Q8_0, without llama.cpp."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(out, "qwen3next")
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, entry.contents(), entry.types[0], entry.types[-1])
    for i, tensor in enumerate(reader.tensors):
        data, kind = tensor.data, tensor.tensor_type
        if kind.name == "BF16" and tensor.shape[0] % 32 == 0 and i % 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quantize(gguf.dequantize(data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "2x3-Q4_K_M.gguf").touch()
    (tmp_path / "2x3").mkdir()
    files = Files(tmp_path, llama_python="/nowhere")
    assert files.gguf(Slice.parse("2x3"), "Q4_K_M") == tmp_path / "2x3-Q4_K_M.gguf"
    assert files.lone_gguf(Slice(2, 3), "Q4_K_M") == tmp_path / "2x3-Q4_K_M.gguf"
    assert files.checkpoint(Slice(2, 3)) == tmp_path / "2x3"


def test_a_half_made_file_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "2x3-BF16.gguf").touch()
    files = Files(tmp_path, llama_python="/nowhere")
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="/nowhere"):
            files.gguf(Slice(2, 3), "Q4_K_M")
