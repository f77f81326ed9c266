"""The container: what writers write is read, and whatever is broken is refused in one line, soon and cheaply."""

import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LoadError
from engine.weights.gguf_file import GgufFile, TensorInfo, read_gguf
from engine.weights.gguf_metadata import MAX_HEADER_BYTES
from tests.support.gguf_files import write
from tests.support.refusals import refused

TENSORS = {
    "a.weight": np.arange(6 * 32, dtype=np.float32).reshape(6, 32),
    "b.bias": np.arange(5, dtype=np.float32),
    "c.weight": np.arange(2 * 3 * 64, dtype=np.float32).reshape(2, 3, 64),
}
KEYS: dict[str, Any] = {"some.text": "é", "some.number": 0.95, "some.list": ["a", "", "日本"], "some.ids": [1, 2, 3]}


def _in_q8(name: str) -> Type:
    return Type.F32 if name.endswith("bias") else Type.Q8_0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write(path, TENSORS, KEYS, _in_q8)
    return path


def _bytes_of(file: GgufFile, name: str) -> bytes:
    tensor = file.tensors[name]
    return tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.num_bytes]


def test_tensors_and_where_they_are(tmp_path: Path) -> None:
    written = write(tmp_path / "a.gguf", TENSORS, KEYS, _in_q8)
    file = read_gguf(tmp_path / "a.gguf")
    assert {name: (tensor.shape, tensor.format.name) for name, tensor in file.tensors.items()} == {
        "a.weight": ((6, 32), "Q8_0"),
        "b.bias": ((5,), "F32"),
        "c.weight": ((2, 3, 64), "Q8_0"),
    }
    for name, values in written.items():
        assert _bytes_of(file, name) == values.tobytes()
    assert file.num_bytes == (tmp_path / "a.gguf").stat().st_size


def test_every_type_of_value(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "any")
    numbers = {kind: 2 for kind in GGUFValueType if kind.name.startswith(("UINT", "INT", "FLOAT"))}
    for kind, value in numbers.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"many.{kind.name}", [value, 3], GGUFValueType.ARRAY, kind)
    writer.add_bool("one.BOOL", True)
    writer.add_key_value("many.BOOL", [True, False], GGUFValueType.ARRAY, GGUFValueType.BOOL)
    writer.add_key_value("least", -(2**63), GGUFValueType.INT64)
    writer.add_key_value("most", 2**64 - 1, GGUFValueType.UINT64)
    writer.add_float32("not.a.number", float("nan"))
    writer.add_float32("third", 1 / 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_gguf(tmp_path / "a.gguf").metadata
    for kind in numbers:
        assert metadata.number(f"one.{kind.name}") == 2
        assert list(metadata.values[f"many.{kind.name}"]) == [2, 3]  # type: ignore[arg-type]
    assert metadata.values["one.BOOL"] is True
    assert metadata.integers("many.BOOL") == [1, 0]
    assert (metadata.integer("least"), metadata.integer("most")) == (-(2**63), 2**64 - 1)
    assert metadata.number("not.a.number") != metadata.number("not.a.number")
    assert metadata.number("third") == pytest.approx(1 / 3, rel=1e-7)


def test_typed_access(whole: Path) -> None:
    metadata = read_gguf(whole).metadata
    assert (metadata.text("some.text"), metadata.number("some.number")) == ("é", 0.95)  # not 0.949999988
    assert metadata.texts("some.list") == ["a", "", "日本"]
    assert metadata.integers("some.ids") == [1, 2, 3]
    for read in (metadata.text, metadata.integer, metadata.number, metadata.texts, metadata.integers):
        assert read("nowhere") is None
    wrong: list[Callable[[], object]] = [
        lambda: metadata.text("some.number"),
        lambda: metadata.integer("some.number"),
        lambda: metadata.number("some.text"),
        lambda: metadata.texts("some.ids"),
        lambda: metadata.integers("some.list"),
    ]
    for read_wrongly in wrong:
        with pytest.raises(LoadError, match=r"model\.gguf: some\.\w+ should be"):
            read_wrongly()


def test_version_2_and_another_alignment(whole: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.gguf"
    old.write_bytes(whole.read_bytes()[:4] + struct.pack("<I", 2) + whole.read_bytes()[8:])
    assert _bytes_of(read_gguf(old), "c.weight") == _bytes_of(read_gguf(whole), "c.weight")
    written = write(tmp_path / "a.gguf", TENSORS, {}, _in_q8, alignment=256)
    tensor = read_gguf(tmp_path / "a.gguf").tensors["c.weight"]
    assert tensor.offset % 256 == 0
    assert _bytes_of(read_gguf(tmp_path / "a.gguf"), "c.weight") == written["c.weight"].tobytes()


@pytest.mark.parametrize("small_first_shard", [False, True])
def test_parts(tmp_path: Path, small_first_shard: bool) -> None:
    written = write(
        tmp_path / "m.gguf", TENSORS, KEYS, _in_q8, split_max_tensors=1, small_first_shard=small_first_shard
    )
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == 3 + small_first_shard
    for part in parts:  # any of them will do
        file = read_gguf(part)
        assert (file.path, list(file.parts)) == (parts[0], parts)
        assert file.metadata.text("some.text") == "é"
        assert {name: _bytes_of(file, name) for name in file.tensors} == {n: b.tobytes() for n, b in written.items()}
    assert file.num_bytes == sum(part.stat().st_size for part in parts)


def _parts(folder: Path) -> list[Path]:
    write(folder / "m.gguf", TENSORS, KEYS, _in_q8, split_max_tensors=1)
    return sorted(folder.glob("m-*.gguf"))


def test_parts_that_do_not_make_a_model(tmp_path: Path) -> None:
    first, second, third = _parts(tmp_path)
    (tmp_path / "renamed.gguf").write_bytes(second.read_bytes())
    with pytest.raises(LoadError, match=r"renamed\.gguf is one of 3 parts, but not named so: .*NAME-00001-of-00003"):
        read_gguf(tmp_path / "renamed.gguf")
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(LoadError, match=r"m-00002-of-00003\.gguf says that it is another part"):
        read_gguf(first)
    second.write_bytes(content.replace(b"c.weight", b"a.weight").replace(b"b.bias", b"d.bias"))
    third.write_bytes(third.read_bytes().replace(b"c.weight", b"a.weight"))
    with pytest.raises(LoadError, match=r"m-00003-of-00003\.gguf has a\.weight once more"):
        read_gguf(first)
    second.unlink()
    third.unlink()
    with pytest.raises(LoadError, match=r"lacks m-00002-of-00003\.gguf, m-00003-of-00003\.gguf: the download is inco"):
        read_gguf(first)


def test_a_part_with_too_few_tensors(tmp_path: Path) -> None:
    first, _, third = _parts(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    two = {name: TENSORS[name] for name in ("a.weight", "b.bias", "c.weight")}
    write(other / "m.gguf", two, {}, _in_q8, split_max_tensors=1, small_first_shard=True)
    content = (other / "m-00001-of-00004.gguf").read_bytes()  # no tensors, and says that it is the first of four
    third.write_bytes(
        content.replace(b"split.no\x02\x00\x00\x00\x00\x00", b"split.no\x02\x00\x00\x00\x02\x00").replace(
            b"split.count\x02\x00\x00\x00\x04\x00", b"split.count\x02\x00\x00\x00\x03\x00"
        )
    )
    with pytest.raises(LoadError, match="and its other parts hold 2 tensors, not 3"):
        read_gguf(first)


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _file(keys: list[bytes], infos: list[bytes], tail: bytes = bytes(512), version: int = 3) -> bytes:
    return b"".join([b"GGUF", struct.pack("<IQQ", version, len(infos), len(keys)), *keys, *infos, tail])


def _info(name: bytes = b"t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _key(name: bytes, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


HUGE = struct.pack("<Q", 2**62)
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a GGUF file"),
    "something else": (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
    "only the magic": (b"GGUF", "it ends inside its header"),
    "version 1": (_file([], [], version=1), "is GGUF version 1; deltaloop reads versions 2 and 3"),
    "version 4": (_file([], [], version=4), "is GGUF version 4"),
    "version 0": (_file([], [], version=0), "is GGUF version 0"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
    "more keys than bytes": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "it ends inside its header"),
    "more tensors than bytes": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "it ends inside its header"),
    "endless key": (_file([HUGE], []), "it ends inside its header"),
    "endless string": (_file([_key(b"k", 8, HUGE)], []), "it ends inside its header"),
    "endless array": (_file([_key(b"k", 9, struct.pack("<I", 4) + HUGE)], []), "it ends inside its header"),
    "endless strings": (_file([_key(b"k", 9, struct.pack("<I", 8) + HUGE)], []), "it ends inside its header"),
    "key not in UTF-8": (_file([_key(b"\xff", 4, bytes(4))], []), "a string is not UTF-8"),
    "value not in UTF-8": (_file([_key(b"k", 8, _string(b"\xff"))], []), "a string is not UTF-8"),
    "unknown type": (_file([_key(b"k", 13, bytes(8))], []), "a value is of type 13, which there is not"),
    "array of arrays": (_file([_key(b"k", 9, struct.pack("<IQ", 9, 1))], []), "a value is of type 9"),
    "key twice": (_file([_key(b"k", 4, bytes(4))] * 2, []), "the key k is there twice"),
    "tensor twice": (_file([], [_info(), _info()]), "the tensor t is there twice"),
    "alignment 0": (_file([_key(b"general.alignment", 4, bytes(4))], []), "general.alignment is 0"),
    "alignment 48": (_file([_key(b"general.alignment", 4, struct.pack("<I", 48))], []), "general.alignment is 48"),
    "alignment in words": (_file([_key(b"general.alignment", 8, _string(b"a"))], []), "should be an integer"),
    "five dimensions": (_file([], [_info(shape=(1, 1, 1, 1, 1))]), "a tensor has 5 dimensions"),
    "2^32 - 1 dimensions": (_file([], [_string(b"t") + b"\xff" * 16]), "a tensor has 4294967295 dimensions"),
    "no size": (_file([], [_info(shape=(32, 0))]), "tensor t has no size or an odd place"),
    "odd place": (_file([], [_info(offset=4)]), "tensor t has no size or an odd place"),
    "beyond the end": (_file([], [_info(offset=4096)]), "is cut off: tensor t ends at byte 4288 of 569"),
    "far beyond the end": (_file([], [_info(shape=(2**63, 2**63))]), "is cut off: tensor t"),
    "half a block": (_file([], [_info(shape=(33,), kind=8)]), "33 columns are no multiple of Q8_0's block of 32"),
    "IQ1_S": (_file([], [_info(kind=19)]), "tensor t is of type IQ1_S, which deltaloop does not compute with: use a"),
    "IQ1_M": (_file([], [_info(kind=29)]), "tensor t is of type IQ1_M"),
    "a type of tomorrow": (_file([], [_info(kind=77)]), "tensor t is of type 77"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, message = BROKEN[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with refused(path, re.escape(message)):
        read_gguf(path)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.gguf"):
        with pytest.raises(LoadError, match="cannot be read"):
            read_gguf(path)


def test_a_header_larger_than_any(tmp_path: Path) -> None:
    """A sparse file of 16 GiB in which a string claims a half of it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(_file([_key(b"k", 8, struct.pack("<Q", 2**33))], []))
    with path.open("r+b") as file:
        file.truncate(2**34)
    with pytest.raises(LoadError, match=f"its header goes beyond {MAX_HEADER_BYTES >> 20} MiB"):
        read_gguf(path)


@pytest.fixture(scope="module")
def content(whole: Path) -> bytes:
    return whole.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_noticed_or_harmless(data: st.DataObject, content: bytes, tmp_path_factory: Any) -> None:
    """Bits flipped, bytes overwritten, the end cut off: an error that names the file, or a file that can be read."""
    damaged = bytearray(content)
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    for place in data.draw(st.lists(places, max_size=2)):
        new = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f", struct.pack("<Q", 2**40)]))
        damaged[place : place + len(new)] = new
    del damaged[data.draw(st.one_of(st.just(len(damaged)), places)) :]
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged)
    started = time.process_time()
    error, tensors = "", list[TensorInfo]()
    try:
        tensors += read_gguf(path).tensors.values()
    except LoadError as caught:
        error = str(caught)
    assert not error or (str(path) in error and "\n" not in error)
    assert all(tensor.offset + tensor.num_bytes <= len(damaged) for tensor in tensors)
    assert time.process_time() - started < 1.0


def test_a_real_vocabulary_is_read_quickly(real_vocabulary: Path) -> None:
    started = time.process_time()
    metadata = read_gguf(real_vocabulary).metadata
    assert time.process_time() - started < 0.5
    strings = metadata.strings("tokenizer.ggml.tokens"), metadata.strings("tokenizer.ggml.merges")
    assert [len(found) for found in strings if found] == [151_936, 151_387]
