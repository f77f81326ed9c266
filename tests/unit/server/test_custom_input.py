"""The text of a call of a tool of free text, out of the function's arguments however they are cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.dialects.responses.custom_input import CustomInput


def read(*fragments: str) -> tuple[str, bool]:
    reader = CustomInput()
    text = "".join(reader.feed(fragment) for fragment in fragments) + reader.finish()
    return text, reader.is_whole


@given(
    st.text(st.characters() | st.sampled_from('"\\\n\t\ud83d\ude00{}'), max_size=40),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_however_it_is_cut(text: str, ascii_only: bool, cuts: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    places = [0, *sorted(min(cut, len(arguments)) for cut in cuts), len(arguments)]
    found, is_whole = read(*(arguments[a:b] for a, b in pairwise(places)))
    assert json.dumps(found) == json.dumps(text)
    assert is_whole


def test_text_comes_as_soon_as_it_is_known() -> None:
    reader = CustomInput()
    told = [reader.feed(fragment) for fragment in ('{"input": "a', "b\\", "n\\ud83d", "\\ude00", 'c"', "}")]
    assert told == ["a", "b", "\n", "😀", "c", ""]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", ""),
        ("{}", ""),
        ('{"other": "x"}', '{"other": "x"}'),
        ('{"input": 7}', '{"input": 7}'),
        ("free text", "free text"),
        ('{"input": "a", "input": "b", "other": 1}', "a"),
        ('{"input": "a\\xb"}', 'a\\xb"}'),
    ],
)
def test_arguments_of_another_shape(arguments: str, text: str) -> None:
    assert read(arguments)[0] == text
    assert read(*arguments)[0] == text


def test_what_is_cut_off_is_not_whole() -> None:
    reader = CustomInput()
    assert reader.feed('{"input": "a\\u00') == "a"
    assert not reader.is_whole
