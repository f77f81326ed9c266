"""What becomes of hundreds of answers with calls in them, good and bad: shapes times variations, cut everywhere.

A case is a text and what a client must get from it: texts, and calls as (name, arguments).
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from server.chat.call_pieces import Piece, TextPiece
from server.chat.conversation import Tool
from server.chat.tool_calls import ToolCallParser
from tests.support.calls import parse_every_cut

SCHEMAS: dict[str, dict[str, Any]] = {
    "path": {"type": "string"},
    "text": {"type": "string"},
    "line": {"type": "integer"},
    "ratio": {"type": "number"},
    "force": {"type": "boolean"},
    "options": {"type": "object"},
    "items": {"type": "array"},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "filter": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "list": {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
}
REQUIRED = ["path", "text"]


def tool(name: str, **properties: dict[str, Any]) -> Tool:
    return Tool(name, {"name": name, "parameters": {"type": "object", "properties": properties, "required": REQUIRED}})


NAMES = ("mcp.files.read", "git-log", "repo/search", "ns:tool", "a@b", "größe", "名前", "_x1", "odd one", "x" * 100)
TOOLS = (tool("edit", **SCHEMAS), Tool("now", {"name": "now"}))
ODD_TOOLS = (*TOOLS, *(tool(name) for name in NAMES))

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """`truncated`: the answer was cut off, and what is expected of its last call is only that it never ends."""

    id: str
    text: str
    expected: list[str | Call]
    truncated: bool = False
    cut_in: str | None = None
    tools: tuple[Tool, ...] = TOOLS


def parameter(key: str, value: str, newline: str = "\n") -> str:
    return f"<parameter={key}>{newline}{value}{newline}</parameter>"


def call(name: str, *parameters: tuple[str, str], between: str = "\n", newline: str = "\n") -> str:
    body = [parameter(key, value, newline) for key, value in parameters]
    return between.join(["<tool_call>", f"<function={name}>", *body, "</function>", "</tool_call>"])


NOW = call("now")
ARGUMENTS: dict[str, tuple[list[tuple[str, str]], dict[str, Any]]] = {
    "none": ([], {}),
    "string": ([("path", "a.py")], {"path": "a.py"}),
    "lines": ([("text", "a\n\n  b")], {"text": "a\n\n  b"}),
    "unicode": ([("path", "größe/名.py"), ("text", "🙂\u2028")], {"path": "größe/名.py", "text": "🙂\u2028"}),
    "numbers": ([("line", "12"), ("ratio", "0.5")], {"line": 12, "ratio": 0.5}),
    "json": ([("options", '{"a": [1, null]}'), ("items", '["x"]')], {"options": {"a": [1, None]}, "items": ["x"]}),
    "empty": ([("text", ""), ("path", "p")], {"text": "", "path": "p"}),
}
LAYOUTS = {
    "as the template": ("\n", "\n"),
    "tight": ("", ""),
    "tight values": ("\n", ""),
    "tight tags": ("", "\n"),
    "blank lines": ("\n\n\n", "\n"),
    "crlf": ("\r\n", "\r\n"),
    "indented": ("\n    ", "\n"),
    "spaces": ("  ", ""),
    "tabs": ("\n\t", "\n"),
}


def layouts() -> Iterator[Case]:
    for (layout, (between, newline)), (kind, (given, expected)) in itertools.product(
        LAYOUTS.items(), ARGUMENTS.items()
    ):
        yield Case(f"{layout}: {kind}", call("edit", *given, between=between, newline=newline), [("edit", expected)])


def surroundings() -> Iterator[Case]:
    made = call("edit", ("path", "p"))
    done = ("edit", {"path": "p"})
    for before, after in itertools.product(
        ["", "Sure.", "Sure.\n", "Sure:\n\n  ", "a < b\n", "\n\n"], ["", "\n", "\nDone.", " ."]
    ):
        expected = [part for part in (before.rstrip(), done, after if after.strip() else "") if part]
        yield Case(f"{before!r} before, {after!r} after", before + made + after, expected)


VALUES = (
    "a.py",
    " ",
    "\n",
    "\n\n",
    "  indented\n    more  ",
    "ends with a line break\n",
    "\tx",
    "quotes \" ' ` and \\ \\n",
    "null",
    "{",
    '{"json": "stays text"}',
    "if a < b and c > d:\n    x <<= 1",
    "<html>\n<body class='x'>\n</body>\n</html>",
    "<?xml version='1.0'?>\n<parameters>\n<parameter>1</parameter>\n</parameters>",
    "<parameter name='x'>1</parameter>",
    "x\n<parameter=unknown>\ny",
    "</parameter>",
    "</parameter> x",
    "x</parameter>\ny",
    "x\n</parameter>\n\ny",
    "</function>",
    "x\n</function>\ny",
    "x </function></tool_call>",
    "</tool_call>",
    "x\n</tool_call>\ny",
    "<tool_call>",
    "x\n<tool_call>\ny",
    "<tool_call>\n<function",
    "<function=now>",
    "<function=now>\n</function>",
    "x\n<function=now>\n</function>\ny",
    "<tool_response>\nx\n</tool_response>",
    "</",
    "<",
    "x <",
    "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> main",
    "```xml\n<a/>\n```",
    "f(x) = '</param' + 'eter>'",
    "$a </parameter >",
    "\r\nx\r\n",
    "a\rb",
    "\u2028\u0085\x0b",
    "é🙂\u200d名\x00",
    f"Calls look like this:\n{NOW}\nand end.",
    f"{NOW}\n",
    f"{call('edit', ('path', 'inner'), ('text', 'x'))}\n{NOW}\nthe end",
    f"    {call('edit', ('line', '1'), between=chr(10) + '    ')}\n",
    f"```\n{call('outer', ('text', NOW))}\n```",
)
LAST_VALUES = (
    "<parameter=path>",
    "x\n<parameter=path>\ny",
    "x\n<parameter=path=y",
    "It begins with\n<tool_call>\n<function=now>\nand so on.",
    "It begins with\n<tool_call>\n<function=edit>\n<parameter=path>\np\n</parameter>\nand so on.",
)


def values() -> Iterator[Case]:
    for value in VALUES:
        yield Case(f"value alone: {value[:40]!r}", call("edit", ("text", value)), [("edit", {"text": value})])
        if len(value) < 40:
            text = call("edit", ("text", value), ("line", "1"))
            yield Case(f"value first: {value!r}", text, [("edit", {"text": value, "line": 1})])
    for value in LAST_VALUES:
        text = call("edit", ("path", "p"), ("text", value))
        yield Case(f"value only last: {value[:50]!r}", text, [("edit", {"path": "p", "text": value})])


TYPED = (
    ("line", "5", 5),
    ("line", " 5 ", 5),
    ("line", "-7", -7),
    ("line", "0", 0),
    ("line", "soon", "soon"),
    ("line", "123456789012345678901234567890", 123456789012345678901234567890),
    ("ratio", "2.5", 2.5),
    ("ratio", "1e-3", 0.001),
    ("force", "true", True),
    ("force", "True", True),
    ("force", "FALSE", False),
    ("options", "{}", {}),
    ("options", '{"a": {"b": [1, "</parameter>"]}}', {"a": {"b": [1, "</parameter>"]}}),
    ("options", "{'a': None, 'b': True}", {"a": None, "b": True}),
    ("options", '\n{\n  "a": 1\n}\n', {"a": 1}),
    ("options", "not json", "not json"),
    ("items", "[]", []),
    ("items", '["a", "b"]', ["a", "b"]),
    ("items", "[1,\n 2]", [1, 2]),
    ("maybe", "null", None),
    ("maybe", "nullable", "nullable"),
    ("maybe", "nul", "nul"),
    ("maybe", "text", "text"),
    ("filter", '{"a": 1}', {"a": 1}),
    ("filter", "null", None),
    ("limit", "5", 5),
    ("limit", "null", None),
    ("list", '["a"]', ["a"]),
    ("list", "null", None),
    ("text", "5", "5"),
    ("text", "true", "true"),
    ("text", '{"a": 1}', '{"a": 1}'),
)


def typed() -> Iterator[Case]:
    for key, written, expected in TYPED:
        yield Case(f"{key} of {written!r}", call("edit", (key, written)), [("edit", {key: expected})])


def orders() -> Iterator[Case]:
    given = {"path": "p", "line": "1", "force": "true"}
    read = {"path": "p", "line": 1, "force": True}
    for order in itertools.permutations(given):
        text = call("edit", *((key, given[key]) for key in order))
        yield Case(f"order {' '.join(order)}", text, [("edit", {key: read[key] for key in order})])


def missing_closers() -> Iterator[Case]:
    closers = ("</parameter>", "</function>", "</tool_call>")
    heads = {
        "no parameter": ("<tool_call>\n<function=now>\n", ("now", {})),
        "one": ("<tool_call>\n<function=edit>\n<parameter=path>\np\n", ("edit", {"path": "p"})),
        "two, first not closed": (
            "<tool_call>\n<function=edit>\n<parameter=line>\n1\n<parameter=text>\na\nb\n",
            ("edit", {"line": 1, "text": "a\nb"}),
        ),
    }
    for (kind, (head, expected)), kept in itertools.product(heads.items(), itertools.product([True, False], repeat=3)):
        left = [closer for closer, is_kept in zip(closers, kept, strict=True) if is_kept]
        if kind == "no parameter" and "</parameter>" in left:
            continue
        name = f"{kind}, closed with {' '.join(left) or 'nothing'}"
        for newline in ("\n", "") if left[:1] == ["</parameter>"] else ("\n",):
            text = head + newline.join(left)
            yield Case(f"{name}{'' if newline else ', tight'}", text, [expected])
            if left or kind == "no parameter":
                yield Case(
                    f"{name}{'' if newline else ', tight'}, then a call", f"{text}\n{NOW}", [expected, ("now", {})]
                )
    yield Case(
        "nothing closes the value before the next call",
        f"<tool_call>\n<function=edit>\n<parameter=text>\nx\n{NOW}",
        [("edit", {"text": "x\n<tool_call>\n<function=now>"})],
    )


def missing_openers() -> Iterator[Case]:
    made = call("edit", ("path", "p"), ("line", "3")).removeprefix("<tool_call>\n")
    done: Call = ("edit", {"path": "p", "line": 3})
    for kind, before, shown in (
        ("at the start", "", None),
        ("after a line", "Sure.\n", "Sure."),
        ("after a blank line", "Sure.\n\n", "Sure."),
        ("indented", "Sure.\n   ", "Sure."),
        ("after crlf", "Sure.\r\n", "Sure."),
        ("in a code fence", "```xml\n", "```xml"),
        ("after a call", f"{NOW}\n", ("now", {})),
        ("right after a call", NOW, ("now", {})),
    ):
        expected: list[str | Call] = [shown, done] if shown else [done]
        yield Case(f"no opener, {kind}", before + made, expected)
        yield Case(f"no opener nor closer, {kind}", before + made.removesuffix("\n</tool_call>"), expected)
        if before != NOW:
            strange = before + made.replace("=edit>", "=strange>")
            if isinstance(shown, tuple):
                yield Case(f"unknown, no opener, {kind}", strange, [shown, strange.removeprefix(NOW)])
            else:
                yield Case(f"unknown, no opener, {kind}", strange, [strange])
    yield Case("a fence is text", f"```xml\n{made}\n```", ["```xml", done, "\n```"])
    for before in ("Use ", "Use `", "x", "- ", "> ", "1. "):
        yield Case(f"no opener, after {before!r}", before + made, [before + made])


def openers_for_strangers() -> Iterator[Case]:
    for name in ("Now", "no", "now2", "edit_file", "mcp__x__y", "a.b/c:d-e@f", "größer", "ファイル"):
        yield Case(f"unknown {name}", call(name, ("n", "5")), [(name, {"n": "5"})])
        yield Case(f"unknown {name}, nothing closed", f"Hm.\n<tool_call>\n<function={name}>", ["Hm.", (name, {})])


def names() -> Iterator[Case]:
    for name in ("edit", *NAMES):
        for kind, text in {
            "plain": call(name),
            "quoted": call(f'"{name}"'),
            "single quotes": call(f"'{name}'"),
            "spaces": call(f" {name} "),
            "without an end": f"<tool_call>\n<function={name}\n</function>",
            "without an opener": f"<function={name}>\n</function>",
        }.items():
            yield Case(f"name {name[:20]}, {kind}", text, [(name, {})], tools=ODD_TOOLS)
    for written in ('"path"', "'path'", " path ", 'path"'):
        yield Case(f"key {written}", call("edit", (written, "p")), [("edit", {"path": "p"})])
    for key in ("größe", "名前", "a.b", "a-b", "a b", "x=y", "$ref", "0"):
        yield Case(f"undeclared key {key}", call("edit", (key, "p")), [("edit", {key: "p"})])


def values_in_tags() -> Iterator[Case]:
    for kind, body, expected in (
        ("closed tag", "<parameter=path=create>\n</parameter>", {"path": "create"}),
        ("open tag", "<parameter=path=create\n</parameter>", {"path": "create"}),
        ("nothing else closed", "<parameter=path=create", {"path": "create"}),
        ("then another", "<parameter=path=create\n<parameter=text=x\n</parameter>", {"path": "create", "text": "x"}),
        ("then a good one", "<parameter=path=create\n<parameter=line>\n1\n</parameter>", {"path": "create", "line": 1}),
        ("more of the value below", "<parameter=text=a\nb\n</parameter>", {"text": "a\nb"}),
        ("a number", "<parameter=line=12>\n</parameter>", {"line": 12}),
        ("a value with =", "<parameter=text=a=b>\n</parameter>", {"text": "a=b"}),
        ("a quoted key", '<parameter="path"=p>\n</parameter>', {"path": "p"}),
        ("an empty value", "<parameter=path=>\n</parameter>", {"path": ""}),
        ("tag without an end", "<parameter=path\na.py\n</parameter>", {"path": "a.py"}),
        ("tag without an end, crlf", "<parameter=path\r\na.py\r\n</parameter>", {"path": "a.py"}),
    ):
        yield Case(
            f"in the tag: {kind}",
            f"<tool_call>\n<function=edit>\n{body}\n</function>\n</tool_call>",
            [("edit", expected)],
        )


def several() -> Iterator[Case]:
    first, second = call("edit", ("path", "a")), call("edit", ("path", "b"))
    done: list[str | Call] = [("edit", {"path": "a"}), ("edit", {"path": "b"}), ("now", {})]
    for between in ("", "\n", "\n\n", " ", "\r\n", "\n\t"):
        yield Case(f"three calls, {between!r} between", between.join([first, second, NOW]), done)
        functions = [made.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>") for made in (first, second, NOW)]
        whole = "<tool_call>\n" + between.join(functions) + "\n</tool_call>"
        if between != " ":
            yield Case(f"three functions in one call, {between!r} between", whole, done)
    for between in ("and", "\nand\n", "\n\nThen `x`:\n", " <b> ", "\n</tool_call>\n", "\n```\n"):
        yield Case(f"{between!r} between", first + between + NOW, [done[0], between.rstrip(), ("now", {})])
    yield Case("the same call twice", f"{NOW}\n{NOW}", [("now", {}), ("now", {})])
    yield Case("a call in a call", f"<tool_call>\n<function=now>\n{NOW}", [("now", {}), ("now", {})])


PROSE = (
    "<tool_call>",
    "The `<tool_call>` tag opens a call.",
    "<tool_call> is the opener",
    "<tool_call>\n\nThen",
    "<tool_call><tool_call>x",
    "<tool_call>\n<tool_call>\n",
    "<tool_call></tool_call>",
    "<tool_call>\n</tool_call>",
    '<tool_call>\n{"name": "now"}\n</tool_call>',
    "<tool_call>\n<parameter=path>\nx\n</parameter>\n</tool_call>",
    "<tool_call>\n<function>\nnow\n</function>\n</tool_call>",
    '<tool_call>\n<function name="now">\n</function>',
    "<tool_call>\n<functions=now>",
    "<tool_call>\n<function=>\n</function>\n</tool_call>",
    '<tool_call>\n<function="">\n</function>',
    "<tool_call>\n<function= >\n</function>",
    "<tool_call>\n<function=a b>\n",
    "<tool_call>\n<function=a,b>\n",
    "<tool_call>\n<function=NAME(x)>\n",
    f"<tool_call>\n<function={'y' * 200}>\n",
    "<tool_call>\n<function=now",
    "</tool_call>",
    "</function>",
    "<parameter=path>\nx\n</parameter>",
    "<function=now> in the middle: x <function=now>"[18:],
    "List<function=now>",
    "x <tool_cal",
    "a < b > c <= d",
    "<",
    "<<<<",
    "  \n\n ",
    "\nleading and trailing\n\n",
)


def prose() -> Iterator[Case]:
    for text in PROSE:
        yield Case(f"prose {text[:40]!r}", text, [text])
        yield Case(f"prose {text[:40]!r}, cut off", text, [text], truncated=True)


def odd_calls() -> Iterator[Case]:
    edit, head = "edit", "<tool_call>\n<function=edit>\n"
    tail = "</function>\n</tool_call>"
    yield Case("required parameters missing", call("edit", ("line", "1")), [(edit, {"line": 1})])
    yield Case("all parameters missing", call("edit"), [(edit, {})])
    yield Case("twice", call("edit", ("path", "a"), ("path", "b")), [(edit, {"path": "b"})])
    yield Case("three times", call("edit", ("line", "1"), ("line", "2"), ("line", "3")), [(edit, {"line": 3})])
    yield Case(
        "twice, others between",
        call("edit", ("path", "a"), ("line", "1"), ("path", "b")),
        [(edit, {"path": "b", "line": 1})],
    )
    yield Case("twice the same", call("edit", ("path", "a"), ("path", "a")), [(edit, {"path": "a"})])
    yield Case(
        "twice, first not closed",
        f"{head}<parameter=path>\na\n{parameter('path', 'b')}\n{tail}",
        [(edit, {"path": "a\n<parameter=path>\nb"})],
    )
    yield Case("empty body", "<tool_call><function=now></function></tool_call>", [("now", {})])
    yield Case("blank body", "<tool_call>\n<function=now>\n\n \n</function>\n</tool_call>", [("now", {})])
    for kind, value in {
        "none": "",
        "a line break": "\n",
        "two": "\n\n",
        "crlf": "\r\n",
        "two crlf": "\r\n\r\n",
    }.items():
        yield Case(
            f"empty value of {kind}", f"{head}<parameter=path>{value}</parameter>\n{tail}", [(edit, {"path": ""})]
        )
    for kind, key, expected in (("line", "line", ""), ("options", "options", ""), ("maybe", "maybe", "")):
        yield Case(f"empty {kind}", call("edit", (key, "")), [(edit, {key: expected})])
    stray = f"{head}one <b>\n{parameter('path', 'p')}\n{tail}\ntwo"
    yield Case("text before a parameter", stray, [(edit, {"path": "p"}), "one <b>\ntwo"])
    stray = f"{head}{parameter('path', 'p')}\none\n{tail}\ntwo"
    yield Case("text behind a parameter", stray, [(edit, {"path": "p\n</parameter>\none"}), "\ntwo"])
    yield Case("text without a parameter", f"<tool_call>\n<function=now>\none\n{tail}\ntwo", [("now", {}), "one\ntwo"])
    yield Case("a cut tag inside", f"{head}<parameter=pa", [(edit, {}), "<parameter=pa"])
    yield Case("a closer twice", f"{NOW}\n</tool_call>", [("now", {}), "\n</tool_call>"])


def cut_off() -> Iterator[Case]:
    """At every character: a call has ended when its `</function>` is there, and not before."""
    made = call("edit", ("path", "a b"), between="")
    head, closed = made.index("edit>") + len("edit>"), made.index("</function>") + len("</function>")
    whole: Call = ("edit", {"path": "a b"})
    for length in range(1, len(made) + 1):
        name, text = f"cut off after {length}", made[:length]
        if length < head:
            yield Case(name, text, [text], truncated=True)
        elif length < closed:
            yield Case(name, text, [], truncated=True, cut_in="edit")
        else:
            yield Case(name, text, [whole], truncated=True)
    for length in range(1, len(NOW)):
        name, text = f"cut off after a call and {length}", f"Hm.\n{NOW}\n{NOW[:length]}"
        if length < len("<tool_call>\n<function=now>"):
            yield Case(name, text, ["Hm.", ("now", {}), f"\n{NOW[:length]}"], truncated=True)
        elif length < NOW.index("</function>") + len("</function>"):
            yield Case(name, text, ["Hm.", ("now", {})], truncated=True, cut_in="now")


CASES = [
    case
    for shape in (
        layouts,
        surroundings,
        values,
        typed,
        orders,
        missing_closers,
        missing_openers,
        openers_for_strangers,
        names,
        values_in_tags,
        several,
        prose,
        odd_calls,
        cut_off,
    )
    for case in shape()
]


@pytest.mark.parametrize(("number", "case"), [pytest.param(n, case, id=case.id) for n, case in enumerate(CASES)])
def test_case(number: int, case: Case) -> None:
    answer = parse_every_cut(lambda: ToolCallParser(case.tools), case.text, case.truncated, seed=number)
    parts = [
        part if isinstance(part, str) else part[0] if not part[2] else (part[0], json.loads(part[1]))
        for part in answer.parts
    ]
    assert parts == case.expected + ([case.cut_in] if case.cut_in else [])
    for part, expected in zip(answer.parts, case.expected, strict=False):
        if isinstance(expected, tuple):
            assert list(json.loads(part[1])) == list(expected[1]), "parameters change places"


def test_the_table_is_large() -> None:
    assert len(CASES) >= 400
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("held", "rest"),
    [
        ("<tool_call>", " x"),
        ("<tool_call>\n\n", "x"),
        ("<tool_call>", "`"),
        ("<tool_call>", "<b"),
        ("<tool_call>", "</"),
        ("<tool_call>\n<function", " >"),
        ("<tool_call>\n<function=a", ","),
        ("<tool_call>\n<function=a", "("),
        ("<tool_call>\n<function=" + "y" * 128, "y"),
        ("<tool_call", "s"),
        ("<t", "d"),
        ("\n<function=", "s"),
        ("\n<function=no", "."),
        ("\n<func", "s"),
    ],
)
def test_text_that_looks_like_a_call_goes_out_as_soon_as_it_cannot_be_one(held: str, rest: str) -> None:
    def texts(pieces: list[Piece]) -> str:
        assert all(isinstance(piece, TextPiece) for piece in pieces)
        return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))

    parser = ToolCallParser(TOOLS)
    assert texts(parser.feed("Tags: ")) == "Tags:"
    assert texts([piece for character in held for piece in parser.feed(character)]) == ""
    assert texts(parser.feed(rest)) == " " + held + rest
