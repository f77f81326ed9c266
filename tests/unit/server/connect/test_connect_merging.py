"""What `connect` makes of files that say something already: everything else stays, comments too."""

import json
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from server.connect.formats import EXPORTS, JSON, TOML, VARIABLES, YAML_FILE, Format, Unreadable
from server.connect.tree import CannotMerge, Unless, merge, plain

CONTENT: Any = {
    "model": "M",
    "name": Unless("Local"),
    "providers": {"ours": {"url": "U", "limit": 5, "live": True}},
    "models": [{"name": "ours", "roles": ["chat", "edit"]}, {"name": "ours too", "x": {"y": 1}}],
}
FORMATS = [JSON, TOML, YAML_FILE]
EMPTY = {JSON: "", TOML: "# nothing yet\n", YAML_FILE: "# nothing yet\n"}

SETTINGS = """\
// Mine. Do not touch.
{
    "theme": "One", /* the dark one */
    "model": "old", // better than most
    "models": [
        { "name": "theirs", "roles": [] }, // keep
        { "name": "ours", "roles": ["chat"], "more": null },
    ],
    "providers": { "theirs": { "url": "http://x//y" } },
    "last": [1, 2] // no comma
    // the end
}
"""
TABLES = """\
# Mine.
model = "old" # better than most

[providers.theirs] # keep
url = 'http://x'

[[models]]
name = "theirs"
"""
LISTS = """\
# Mine.
model: old  # better than most
models:
- name: theirs   # keep
  roles: [chat]
- name: ours
  more: ~
providers:
  theirs: {url: "http://x"}
"""


@pytest.mark.parametrize("file_format", FORMATS, ids=lambda f: f.name)
def test_a_new_file_says_what_it_should(file_format: Format) -> None:
    assert file_format.parse(file_format.fresh(CONTENT)) == plain(CONTENT)
    for comment in (EMPTY[file_format], EMPTY[file_format].rstrip()):
        commented = file_format.merged(comment, CONTENT)
        assert file_format.parse(commented) == plain(CONTENT)
        assert commented.startswith(comment)


@pytest.mark.parametrize(
    ("file_format", "text"), [(JSON, SETTINGS), (TOML, TABLES), (YAML_FILE, LISTS)], ids=["JSON", "TOML", "YAML"]
)
def test_other_entries_and_comments_stay(file_format: Format, text: str) -> None:
    after = file_format.merged(text, CONTENT)
    said, says = file_format.parse(text), file_format.parse(after)
    assert says["model"] == "M"
    assert says["providers"] == said["providers"] | CONTENT["providers"]
    assert {model["name"] for model in says["models"]} == {"theirs", "ours", "ours too"}
    assert says["models"][0] == said["models"][0]
    comments = [
        mark for mark in ("Mine", "better than most", "keep", "dark one", "no comma", "the end") if mark in text
    ]
    assert len(comments) > 2
    assert all(mark in after for mark in comments)
    assert file_format.merged(after, CONTENT) == after


def test_json_is_changed_only_where_it_must_be() -> None:
    after = JSON.merged(SETTINGS, {"model": "new", "providers": {"ours": 1}, "last": [1, 2]})
    assert after == SETTINGS.replace('"old"', '"new"').replace(
        '"http://x//y" } }', '"http://x//y" },\n        "ours": 1\n    }'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', '{"a": 1,\n  "b": 2\n}'),
        ("{}", '{\n  "b": 2\n}'),
        ('{\n\t"a": 1,\n}\n', '{\n\t"a": 1,\n\t"b": 2,\n}\n'),
        ('{\r\n  "a": 1\r\n}\r\n', '{\r\n  "a": 1,\r\n  "b": 2\r\n}\r\n'),
        ('{\n  "a": {} // c\n}', '{\n  "a": {}, // c\n  "b": 2\n}'),
        ('{ // "b": 3\n}', '{ // "b": 3\n  "b": 2\n}'),
        ('{"b": null}', '{"b": 2}'),
        ('{"b": 2.0} // same', '{"b": 2.0} // same'),
        ('{"b": true}', '{"b": 2}'),
        ('{"b": 1, "b": 3}', '{"b": 1, "b": 2}'),
        ('\ufeff{"a": "b // c"}', '\ufeff{"a": "b // c",\n  "b": 2\n}'),
    ],
)
def test_json_of_every_shape(text: str, expected: str) -> None:
    assert JSON.merged(text, {"b": 2}) == expected


@pytest.mark.parametrize(
    "text",
    ["{", '{"a" 1}', '{"a": 1 "b": 2}', "[1,,2]", "{,}", '{"a": 1} x', "{'a': 1}", "nul", "/* open", "[" * 100_000],
)
def test_json_that_is_none_is_named_as_such(text: str) -> None:
    with pytest.raises(Unreadable, match="not valid JSON"):
        JSON.merged(text, CONTENT)


@pytest.mark.parametrize(
    ("file_format", "text"),
    [
        (TOML, "a = "),
        (TOML, "\ufeffa = 1"),
        (TOML, "a = 1\na = 2"),
        (YAML_FILE, "a: ["),
        (YAML_FILE, "a: 1\n---\nb: 2"),
        (YAML_FILE, "a: 1\na: 2"),
        (YAML_FILE, "a: !!python/object:x.y {}"),
        (VARIABLES, "A='b"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_as_such(file_format: Format, text: str) -> None:
    with pytest.raises(Unreadable, match=f"it is not {file_format.name}: "):
        file_format.merged(text, {"c": "d"})


@pytest.mark.parametrize("file_format", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize(
    "present", [{"providers": 1}, {"models": {"name": "x"}}, {"providers": {"ours": [1]}}], ids=str
)
def test_something_in_the_way_is_not_swept_away(file_format: Format, present: Any) -> None:
    with pytest.raises(CannotMerge, match="there is"):
        file_format.merged(file_format.fresh(present), CONTENT)


def test_a_reason_does_not_quote_the_line() -> None:
    """There are keys in such files."""
    for file_format, text in [
        (YAML_FILE, "a: 1\nkey: 'sk-secret"),
        (YAML_FILE, "a: 1\nkey: sk-secret: b"),
        (JSON, '{\n"key": "sk-secret'),
        (JSON, '{\n"key": sk-secret}'),
        (TOML, "a = 1\nkey = sk-secret"),
        (TOML, "a = 1\nkey = 'sk-secret"),
        (VARIABLES, "A=1\nkey='sk-secret"),
    ]:
        with pytest.raises(Unreadable) as refusal:
            file_format.merged(text, {"c": "d"})
        assert "secret" not in str(refusal.value)
        assert "line 2" in str(refusal.value) or file_format in (TOML, VARIABLES)


FOUR = "a:\n    b: 1\n    c:\n        d: 2\n"
YAML_HABITS = {
    "lists as far in as their name": "a:\n- b: 1\n  c: 2\nd:\n  e: 3\n",
    "lists farther in": "a:\n  - b: 1\n    c:\n      - 2\nd:\n  e: 3\n",
    "four blanks": FOUR,
    "four blanks and lists": FOUR + "e:\n    - f: 1\n    - g\n",
    "four blanks, lists by two": FOUR + "e:\n  - f: 1\n  - g\n",
    "tables by two, before a list of tables": "a:\n  b: 1 # c\n\n  # d\n  e: '2'\nf:\n  - g: 1\n",
    "long lines": f"a: {'word ' * 60}end\nb: {{c: 1, d: [1, 2]}}\n",
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("text", YAML_HABITS.values(), ids=YAML_HABITS)
def test_what_was_there_keeps_its_indents_and_line_ends(text: str, newline: str) -> None:
    before = text.replace("\n", newline)
    after = YAML_FILE.merged(before, {"ours": {"x": [{"y": 1}]}})
    assert after.startswith(before)
    assert after.count("\n") == after.count(newline) == before.count("\n") + 3


def test_line_ends_of_other_formats() -> None:
    assert TOML.merged("a = 1\r\n[b]\r\nc = 2\r\n", {"b": {"d": 3}}) == "a = 1\r\n[b]\r\nc = 2\r\nd = 3\r\n"
    assert VARIABLES.merged("A=1\r\n", {"B": "2"}) == "A=1\r\nB=2\r\n"
    assert VARIABLES.merged("A=1\r\n", {"A": "1"}) == "A=1\r\n"


def test_tables_known_by_what_is_in_them() -> None:
    ours = {"info": {"id": "ours", "size": 2}, "name": "m"}
    theirs = [{"name": "m"}, {"info": "ours", "name": "m"}, {"info": {"id": "theirs"}, "name": "m"}]
    old = {"info": {"id": "ours", "more": 1}, "name": "n"}
    assert merge([*theirs], [ours]) == [*theirs, ours]
    merged = [*theirs, {"info": {"id": "ours", "more": 1, "size": 2}, "name": "m"}]
    for file_format in FORMATS[::2]:
        assert file_format.parse(file_format.merged(file_format.fresh({"l": [*theirs, old]}), {"l": [ours]})) == {
            "l": merged
        }


def test_variables() -> None:
    text = "# mine\nA=1\nexport B='x y' # old\nC=\"3\"\nB_MORE=4"
    after = VARIABLES.merged(text, {"A": "1", "B": "it's", "D": "a b"})
    assert after == "# mine\nA=1\nexport B='it'\"'\"'s'\nC=\"3\"\nB_MORE=4\nD='a b'\n"
    assert VARIABLES.parse(after) == {"A": "1", "B": "it's", "C": "3", "B_MORE": "4", "D": "a b"}
    assert EXPORTS.fresh({"A": "$x"}) == "export A='$x'\n"


def test_of_variables_set_twice_the_last_counts() -> None:
    assert VARIABLES.merged("A=1\nA=2\n", {"A": "3"}) == "A=1\nA=3\n"
    assert VARIABLES.merged("A=3\nA=2\n", {"A": "2"}) == "A=3\nA=2\n"


def test_what_is_said_already_is_left_as_it_is() -> None:
    """However strangely it is written: the libraries would write some of it anew."""
    strange = "model:    'M'\nother: {a:   1 ,  b: [ 2 ]}\n"
    assert YAML_FILE.merged(strange, {"model": "M", "other": {"a": 1}}) == strange


NAMES = st.sampled_from(["a", "b", "c", 'q"', "é\u2028"])
SOMETHING = st.booleans() | st.integers() | st.text(max_size=5)
PRESENT = st.dictionaries(
    NAMES,
    st.recursive(
        st.none() | SOMETHING,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
TABLE = st.fixed_dictionaries({"a": SOMETHING}, optional={"b": SOMETHING})
WANTED = st.dictionaries(
    NAMES,
    st.recursive(
        SOMETHING
        | st.lists(SOMETHING, max_size=2)
        | st.lists(TABLE, max_size=2, unique_by=lambda item: repr(item["a"])),
        lambda inner: st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    min_size=1,
    max_size=4,
)


@given(PRESENT, WANTED, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_editing_a_json_text_says_what_merging_its_value_says(
    present: Any, wanted: Any, indent: Any, trailing: bool
) -> None:
    text = json.dumps(present, indent=indent)
    if trailing and present:
        text = text[:-1] + ", // end\n}"
    try:
        expected = merge(json.loads(json.dumps(present)), wanted)
    except CannotMerge:
        with pytest.raises(CannotMerge):
            JSON.merged(text, wanted)
        return
    after = JSON.merged(text, wanted)
    assert JSON.parse(after) == expected
    assert JSON.merged(after, wanted) == after
    if not trailing:
        assert json.loads(after) == expected


def test_plain_parsers_agree() -> None:
    """Clients read these files with the usual libraries, not with ours."""
    assert json.loads(JSON.fresh(CONTENT)) == plain(CONTENT)
    assert tomllib.loads(TOML.merged(TABLES, CONTENT))["providers"]["ours"]["live"] is True
    assert yaml.safe_load(YAML_FILE.merged(LISTS, CONTENT))["providers"]["ours"]["live"] is True
