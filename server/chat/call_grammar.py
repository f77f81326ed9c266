"""Grammars of tool calls, in the XML-like form that Qwen3-Coder models write and nothing else does.

Lives here: from the tools on offer to a grammar in Lark. Each parameter comes once at most, those that are required
come once, in any order. It may not know requests, nor who compiles the grammar.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.chat.call_markup import (
    CALL_CLOSE,
    CALL_OPEN,
    FUNCTION_CLOSE,
    FUNCTION_OPEN,
    HELD_VALUE_CLOSE,
    PARAMETER_OPEN,
)
from server.chat.conversation import Tool
from server.chat.value_grammar import (
    FREE_TEXT,
    TEXT,
    NoGrammar,
    ValueGrammar,
    literal,
    text_terminal,
    text_without,
    value_grammar,
)
from server.chat.whole_schema import ANNOTATIONS, Unclear, whole_schema

MOST_IN_ANY_ORDER = 60  # parameters; more of them come in their own
# What is held begins with a function's tag: behind the call's, or at the start of a line where that one is missing.
OPENING = rf"(?:(?P<open>{CALL_OPEN}\s*)|\n[ \t]*)(?P<held>{FUNCTION_OPEN[:-1]}(?(open)=?|=)[^\s>]*)\Z"
VALUES = (rf"{PARAMETER_OPEN}[^>\n]*>\n", HELD_VALUE_CLOSE)  # where a parameter's value begins, and what ends it
CALL_END = literal("\n" + CALL_CLOSE)
_PARAMETER = "\n" + PARAMETER_OPEN
_NAME = r"/[^>\s=][^>\n]*/"
_UNDERSTOOD = ANNOTATIONS | {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of one tool: where its schema stands in the request, and the grammar of its values."""

    path: str
    name: str
    grammar: ValueGrammar
    is_required: bool


@dataclass(frozen=True, slots=True)
class Function:
    """A tool as its grammar sees it. A strict one is held to all that its schema says, another one to what can be held.
    With `takes_any` it has parameters of any name."""

    name: str
    parameters: tuple[Parameter, ...]
    is_strict: bool
    takes_any: bool = False


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """How grammars of a form of calls are made.

    Attributes:
        opening: see `engine.types.Constraint`.
        values: see there.
        free: the grammar of a value that may be anything.
        function_of: a tool, its path in the request, and whether it is strict. Raises `NoGrammar` for a strict one.
        whole_answer: the grammar of an answer of calls, one or several, or of an expression in their stead.
        held_calls: the grammar of one call from where `opening` holds it.
        no_calls: the grammar of a text without any.
    """

    opening: str
    values: tuple[str, str]
    free: ValueGrammar
    function_of: Callable[[Tool, str, bool], Function]
    whole_answer: "WholeAnswer"
    held_calls: Callable[[Sequence[Function]], str]
    no_calls: str


class WholeAnswer(Protocol):
    """See `CallGrammar`."""

    def __call__(self, functions: Sequence[Function], several: bool, instead: str | None = None) -> str: ...


def answer_rules(inside: str, several: bool, instead: str | None) -> str:
    """The answer is calls and nothing else: one, or as many as the model likes; or `instead`, an expression. `inside`
    is a rule."""
    more = ' ("\\n" call)*' if several else ""
    start = "start: calls" if instead is None else f"start: calls | instead\ninstead: {instead}"
    return f"{start}\ncalls: call{more}\ncall: {literal(CALL_OPEN + chr(10))} {inside} {CALL_END}"


def function_of(tool: Tool, path: str, is_strict: bool) -> Function:
    """See `CallGrammar`."""
    path, root = f"{path}.{tool.schema_name}", tool.parameters
    try:
        whole = whole_schema(root, root)
    except Unclear as error:
        if is_strict:
            raise NoGrammar(str(error), path) from None
        whole = {}
    schema = whole if isinstance(whole, Mapping) else {}
    unknown = [key for key in schema if key not in _UNDERSTOOD]
    if is_strict and unknown:
        raise NoGrammar(f"{unknown[0]} cannot be held to here", path)
    found = schema.get("properties")
    properties = found if isinstance(found, Mapping) else {}
    listed = schema.get("required")
    required = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    others = schema.get("additionalProperties", True)
    undeclared = {name: others for name in required if name not in properties}
    parameters = [
        parameter
        for name, value in {**properties, **undeclared}.items()
        if (parameter := _parameter(name, value, root, f"{path}.properties.{name}", name in required, is_strict))
    ]
    return Function(tool.name, tuple(parameters), is_strict, takes_any=not properties and others is True)


def _parameter(
    name: str, schema: object, root: object, path: str, is_required: bool, is_strict: bool
) -> Parameter | None:
    try:
        if not name or name != name.strip() or ">" in name or "\n" in name:
            raise NoGrammar("the call's form cannot carry a parameter of this name", path)
        return Parameter(path, name, value_grammar(schema, root, not is_strict), is_required)
    except NoGrammar as error:
        if is_strict and (is_required or schema is not False):
            raise NoGrammar(error.reason, path) from None
        return None if schema is False else Parameter(path, name, FREE_TEXT, is_required)


def whole_answer(functions: Sequence[Function], several: bool, instead: str | None = None) -> str:
    """See `CallGrammar`."""
    return _grammar(functions, answer_rules("function", several, instead))


def held_calls(functions: Sequence[Function]) -> str:
    """See `CallGrammar`. The call's own closing tag may be missing where its opening one is."""
    return _grammar(functions, f"start: function ({CALL_END})?")


def _grammar(functions: Sequence[Function], start: str) -> str:
    lines = [start]
    names = " | ".join(f"f{number}" for number in range(len(functions)))
    lines.append(f"function: {literal(FUNCTION_OPEN)} ({names}) {literal(chr(10) + FUNCTION_CLOSE)}")
    for number, function in enumerate(functions):
        lines += _function_rules(f"{number}", function)
    terminals = {terminal for f in functions for p in f.parameters for terminal in p.grammar.terminals}
    lines.append(f"any: {literal(_PARAMETER)} NAME {literal('>' + chr(10))} {TEXT}")
    return "\n".join([*lines, f"NAME: {_NAME}", text_terminal(), *sorted(terminals), ""])


def _function_rules(number: str, function: Function) -> Iterator[str]:
    """Rules `f0` for the name and what follows, `p0` for the parameters left to come, `v0_1` for each of them.

    Which have come is a set of bits, the required ones first, so that "all of these" is a range.
    """
    ordered = sorted(function.parameters, key=lambda parameter: not parameter.is_required)
    num_required = sum(parameter.is_required for parameter in ordered)
    head = f"f{number}: {literal(function.name + '>')}"
    if len(ordered) > MOST_IN_ANY_ORDER:
        in_order = [f"v{number}_{i}" + "?" * (not p.is_required) for i, p in enumerate(ordered)]
        yield " ".join([head, *in_order])
    elif ordered:
        yield f"{head} p{number}::0x0"
        condition = f" %if is_ones([0:{num_required}])" if num_required else ""
        choices = [f"v{number}_{i} p{number}::set_bit({i}) %if bit_clear({i})" for i in range(len(ordered))]
        yield "\n  | ".join([f'p{number}::_: ""{condition}', *choices])
    elif function.takes_any:
        yield f"{head} any*"
    else:
        yield head
    for i, parameter in enumerate(ordered):
        yield f"v{number}_{i}: {literal(_PARAMETER + parameter.name + '>' + chr(10))} {parameter.grammar.expression}"


def single_value(parameter: Parameter) -> str:
    """A grammar of nothing but a parameter's values, to see whether there is one."""
    return "\n".join([f"start: {parameter.grammar.expression}", text_terminal(), *parameter.grammar.terminals, ""])


NO_CALLS = f"start: {text_without(CALL_OPEN, FUNCTION_OPEN)}\n"  # many a call begins with its second tag
XML_GRAMMAR = CallGrammar(OPENING, VALUES, FREE_TEXT, function_of, whole_answer, held_calls, NO_CALLS)
