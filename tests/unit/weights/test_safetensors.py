"""The safetensors reader against the library, and against every way a file can be damaged."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import LoadError
from engine.weights import mapped
from engine.weights.mapped import map_file, read_ahead, read_soon
from engine.weights.safetensors import DTYPES, read_safetensors

VALUES = {
    name: torch.arange(-3, 9).clamp(min=0 if name in ("BOOL", "U8") else -9).to(dtype).view(2, 6)
    for name, dtype in DTYPES.items()
    if name != "F8_E8M0"
}


def _file(path: Path, header: Any, data: bytes = b"\0" * 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_same_as_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(VALUES | {"empty": torch.empty(0, 3), "scalar": torch.tensor(1.5)}, path, metadata={"format": "pt"})
    truth = load_file(path)
    found = {tensor.name: tensor for tensor in read_safetensors(path)}
    assert found.keys() == truth.keys()
    for name, tensor in found.items():
        assert tensor.data.dtype == truth[name].dtype
        assert tensor.shape == tuple(tensor.data.shape) == truth[name].shape
        assert torch.equal(tensor.data.flatten().view(torch.uint8), truth[name].flatten().view(torch.uint8))
    assert {found[name].dtype for name in VALUES} == VALUES.keys()


def test_a_tensor_keeps_its_file_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.arange(1000)}, path)
    tensor = read_safetensors(path)[0].data[500:]
    path.unlink()
    gc.collect()
    assert tensor.sum() == sum(range(500, 1000))


def test_tensors_at_odd_places_are_copied(tmp_path: Path) -> None:
    """Compiled code may want numbers where numbers are usually kept."""
    header = {"a": _entry("U8", [1], [0, 1]), "b": _entry("F32", [2], [1, 9])}
    values = torch.tensor([1.5, -2.5])
    path = _file(tmp_path / "a.safetensors", header, b"\7" + values.numpy().tobytes())
    _, b = read_safetensors(path)
    assert b.data.data_ptr() % 4 == 0
    assert torch.equal(b.data, values)


DAMAGED: dict[str, tuple[Any, bytes]] = {
    "no JSON": (b"{", b""),
    "no text": (b"\xff\xfe", b""),
    "no object": ([], b""),
    "nothing at all": (b"", b""),
    "no description": ({"a": 3}, b""),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "dtype of another kind": ({"a": _entry(dtype=["F32"])}, b"\0" * 8),
    "unknown dtype": ({"a": _entry(dtype="F7")}, b"\0" * 8),
    "negative shape": ({"a": _entry(shape=[-1, -2])}, b"\0" * 8),
    "shape in words": ({"a": _entry(shape=["2"])}, b"\0" * 8),
    "truth in a shape": ({"a": _entry(shape=[True, 2])}, b"\0" * 8),
    "shape of fractions": ({"a": _entry(shape=[2.0])}, b"\0" * 8),
    "shape of another size": ({"a": _entry(shape=[3])}, b"\0" * 8),
    "huge shape": ({"a": _entry(shape=[1 << 62, 1 << 62])}, b"\0" * 8),
    "one offset": ({"a": _entry(offsets=[0])}, b"\0" * 8),
    "offsets the wrong way": ({"a": _entry(shape=[0], offsets=[8, 0])}, b"\0" * 8),
    "gap before": ({"a": _entry(offsets=[8, 16])}, b"\0" * 16),
    "gap between": ({"a": _entry(), "b": _entry(offsets=[12, 20])}, b"\0" * 20),
    "overlap": ({"a": _entry(), "b": _entry(offsets=[4, 12])}, b"\0" * 12),
    "the same twice": ({"a": _entry(), "b": _entry()}, b"\0" * 8),
    "cut off": ({"a": _entry()}, b"\0" * 7),
    "bytes left over": ({"a": _entry()}, b"\0" * 9),
    "a name twice": (b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "a": 1}', b""),
    "deep": (b"[" * 100_000, b""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_with_the_file(name: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", *DAMAGED[name])
    with pytest.raises(LoadError, match=r"^.* is not a whole safetensors file \(.*\): download it again$") as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [9, 1 << 20, 100_000_001, (1 << 64) - 1])
def test_a_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}      ")
    with pytest.raises(LoadError, match="its header is longer than it"):
        read_safetensors(path)


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("none", "folder"):
        with pytest.raises(LoadError, match=rf"{name} cannot be read"):
            read_safetensors(tmp_path / name)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_whatever_is_damaged_is_found_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.arange(6.0), "b": torch.arange(5, dtype=torch.int8)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        found = read_safetensors(path)
    except LoadError:
        return
    assert sum(tensor.data.nbytes for tensor in found) <= len(content)
    assert all(tensor.data.flatten().view(torch.uint8).sum() >= 0 for tensor in found)


@pytest.mark.parametrize("can_populate", [True, False])
def test_reading_ahead_reports_every_byte(can_populate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_populate:
        monkeypatch.setattr(mapped, "_advise", lambda start, end, advice: False)
    monkeypatch.setattr(mapped, "CHUNK_BYTES", 10_000)
    path = tmp_path / "file"
    path.write_bytes(bytes(100_001))
    whole = map_file(path)
    reports: list[int] = []
    neighbours = [whole[60_000:], whole[50_000:60_000], whole[55_000:70_000]]
    read_ahead([*neighbours, whole[:0], whole[:17], torch.zeros(3, 5)], reports.append)
    assert sorted(reports) == [1, 17, 60, *[10_000] * 5]
    read_soon(neighbours)  # harmless at least
