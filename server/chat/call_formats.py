"""How a model writes its tool calls, read from its chat template.

Lives here: the forms, which parser reads which, and which grammar holds which. Writing past calls into a prompt is the
template's own business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from server.chat import call_grammar, hermes_grammar
from server.chat.call_grammar import Function
from server.chat.call_parser import CallParser
from server.chat.conversation import Tool
from server.chat.hermes_calls import HermesCallParser
from server.chat.tool_calls import ToolCallParser
from server.chat.value_grammar import FREE_TEXT, ValueGrammar


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


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """How grammars of a form are made.

    Attributes:
        opening: see `engine.types.Constraint`.
        values: see there.
        free: the grammar of a value that may be anything.
        function_of: a tool, named by a path in the request, and whether it is strict. Raises `NoGrammar`.
        whole_answer: the grammar of an answer of calls, one or several.
        held_calls: the grammar of one call from where `opening` holds it.
    """

    opening: str
    values: tuple[str, str]
    free: ValueGrammar
    function_of: Callable[[Tool, str, bool], Function]
    whole_answer: Callable[[Sequence[Function], bool], str]
    held_calls: Callable[[Sequence[Function]], str]


def call_grammar_of(form: CallFormat) -> CallGrammar:
    """The grammars of a form."""
    module, free = (
        (hermes_grammar, hermes_grammar.ANY_ARGUMENTS) if form is CallFormat.HERMES else (call_grammar, FREE_TEXT)
    )
    return CallGrammar(module.OPENING, module.VALUES, free, module.function_of, module.whole_answer, module.held_calls)
