"""JSON as it goes out."""

import json

import pytest

from server.json_text import MAX_DEPTH, object_of, to_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, {"b": null}], "a": 2.5}', {"a": 2.5}),
        ("{}", {}),
        ("[1]", None),
        ('{"a": ', None),
        ('{"a": NaN}', None),
        ('{"a": -Infinity}', None),
        ('{"a": 1e999}', None),
        ('{"a": ' + "9" * 5000 + "}", None),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", None),
    ],
)
def test_an_object_that_can_be_written_again(text: str, value: object) -> None:
    assert object_of(text) == value


def test_an_object_that_is_too_deep_to_stand_in_an_answer() -> None:
    def nested(depth: int) -> str:
        return '{"a":' * depth + "1" + "}" * depth

    value = object_of(nested(MAX_DEPTH))
    assert to_json(value) == nested(MAX_DEPTH).encode()
    assert object_of(nested(MAX_DEPTH + 1)) is None
    assert json.loads(nested(MAX_DEPTH + 1))
