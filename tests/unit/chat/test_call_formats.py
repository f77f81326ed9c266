"""Which form of calls a template teaches."""

from pathlib import Path

import pytest

from server.chat.call_formats import CallFormat, call_format, call_parser
from server.chat.conversation import Tool
from server.chat.model_files import read_model_files
from server.model import served_model
from tests.support.calls import parse

REPOSITORY = Path(__file__).parents[3]
CODER = (REPOSITORY / "engine" / "nano" / "chat_template.jinja").read_text(encoding="utf-8")
INSTRUCT = r"""
{%- if tools %}
    {{- "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user query." }}
    {{- "\n\nFor each function call, return a json object with function name and arguments within " }}
    {{- "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, " }}
    {{- "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- endif %}
"""
CALLS = {
    CallFormat.XML: "<tool_call>\n<function=now>\n<parameter=a>\nb\n</parameter>\n</function>\n</tool_call>",
    CallFormat.HERMES: '<tool_call>\n{"name": "now", "arguments": {"a": "b"}}\n</tool_call>',
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CODER, CallFormat.XML),
        (INSTRUCT, CallFormat.HERMES),
        ("{{ messages[0].content }}", CallFormat.XML),
        (None, CallFormat.XML),
    ],
)
def test_the_form_is_read_from_the_template(source: str | None, expected: CallFormat) -> None:
    assert call_format(source) is expected


@pytest.mark.parametrize("form", CallFormat)
def test_each_form_has_its_parser(form: CallFormat) -> None:
    tools = (Tool("now", {"name": "now"}),)
    for written, text in CALLS.items():
        answer = parse(lambda: call_parser(form, tools), text)
        assert answer.parts == ([["now", '{"a": "b"}', True]] if written is form else [text])


def test_a_served_model_knows_its_form(tmp_path: Path) -> None:
    nano = REPOSITORY / "engine" / "nano"
    for file in nano.iterdir():
        if file.is_file() and not file.name.endswith((".safetensors", ".py")):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert served_model(read_model_files(tmp_path), ("m",)).call_format is CallFormat.XML
    (tmp_path / "chat_template.jinja").write_text(INSTRUCT, encoding="utf-8")
    assert served_model(read_model_files(tmp_path), ("m",)).call_format is CallFormat.HERMES
