"""How a model writes its tool calls, read from its chat template.

Lives here: the forms, which parser reads which, and which grammar holds which. Writing past calls into a prompt is the
template's own business.
"""

from enum import Enum

from server.chat.call_grammar import XML_GRAMMAR, CallGrammar
from server.chat.call_parser import CallParser
from server.chat.conversation import Tool
from server.chat.hermes_calls import HermesCallParser
from server.chat.hermes_grammar import HERMES_GRAMMAR
from server.chat.tool_calls import ToolCallParser


class CallFormat(Enum):
    """The forms of a call between `<tool_call>` and `</tool_call>`."""

    XML = "<function=NAME> with tags for the parameters, of Qwen3-Coder models"
    HERMES = "a JSON object, of other Qwen3 models"


def call_format(template_source: str | None) -> CallFormat:
    """The form that a chat template teaches; that of Qwen3-Coder where it teaches none."""
    source = template_source or ""
    is_hermes = "<tool_call>" in source and "<function=" not in source
    return CallFormat.HERMES if is_hermes else CallFormat.XML


def call_parser(form: CallFormat, tools: tuple[Tool, ...], are_held: bool = False) -> CallParser:
    """A parser for one answer; `are_held`: its calls of these tools are held to their grammar."""
    return HermesCallParser(tools) if form is CallFormat.HERMES else ToolCallParser(tools, are_held)


def call_grammar_of(form: CallFormat) -> CallGrammar:
    """How grammars of a form are made."""
    return HERMES_GRAMMAR if form is CallFormat.HERMES else XML_GRAMMAR
