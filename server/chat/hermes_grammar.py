"""Grammars of tool calls in the JSON form of other Qwen3 models: see `server.chat.hermes_calls`.

Lives here: from the tools on offer to a grammar in Lark. It may not know requests, nor who compiles the grammar.
"""

import json
from collections.abc import Iterator, Sequence

from server.chat.call_grammar import CALL_END, CallGrammar, Function, Parameter, answer_rules
from server.chat.call_markup import CALL_CLOSE, CALL_OPEN
from server.chat.conversation import Tool
from server.chat.value_grammar import NoGrammar, ValueGrammar, json_grammar, literal, text_without

ARGUMENTS = "arguments"
OPENING = rf"{CALL_OPEN}\s*(?P<held>\{{[^\n}}]{{0,200}})\Z"  # a bracket is often one token with what follows it
VALUES = (rf'"{ARGUMENTS}": ', "\n" + CALL_CLOSE)
ANY_ARGUMENTS = ValueGrammar(json_grammar({"type": "object"}, {}))


def function_of(tool: Tool, path: str, is_strict: bool) -> Function:
    """See `CallGrammar`. All arguments are one value."""
    path, schema = f"{path}.{tool.schema_name}", {"type": "object", **tool.parameters}
    try:
        arguments = ValueGrammar(json_grammar(schema, schema, lenient=not is_strict))
    except RecursionError:
        if is_strict:
            raise NoGrammar("it is nested too deep", path) from None
        arguments = ANY_ARGUMENTS
    return Function(tool.name, (Parameter(path, ARGUMENTS, arguments, is_required=True),), is_strict)


def whole_answer(functions: Sequence[Function], several: bool, instead: str | None = None) -> str:
    """See `CallGrammar`."""
    return _grammar(functions, answer_rules("object", several, instead))


def held_calls(functions: Sequence[Function]) -> str:
    """See `CallGrammar`."""
    return _grammar(functions, f"start: object {CALL_END}")


def _grammar(functions: Sequence[Function], start: str) -> str:
    lines = [start, "object: " + " | ".join(f"f{number}" for number in range(len(functions)))]
    for number, function in enumerate(functions):
        lines += _function_rules(f"{number}", function)
    return "\n".join([*lines, ""])


def _function_rules(number: str, function: Function) -> Iterator[str]:
    [arguments] = function.parameters
    head = f'{{"name": {json.dumps(function.name, ensure_ascii=False)}, "{ARGUMENTS}": '
    yield f'f{number}: {literal(head)} {arguments.grammar.expression} "}}"'


NO_CALLS = f"start: {text_without(CALL_OPEN)}\n"
HERMES_GRAMMAR = CallGrammar(OPENING, VALUES, ANY_ARGUMENTS, function_of, whole_answer, held_calls, NO_CALLS)
