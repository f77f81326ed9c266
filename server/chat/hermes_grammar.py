"""Grammars of tool calls in the JSON form of other Qwen3 models: see `server.chat.hermes_calls`.

Lives here: from the tools on offer to a grammar in Lark. It may not know requests, nor who compiles the grammar.
"""

import json
from collections.abc import Iterator, Sequence

from server.chat.call_grammar import Function, Parameter
from server.chat.call_markup import CALL_CLOSE, CALL_OPEN
from server.chat.conversation import Tool
from server.chat.value_grammar import NoGrammar, ValueGrammar, json_grammar, literal

ARGUMENTS = "arguments"
OPENING = rf"{CALL_OPEN}\s*(?P<held>\{{[^\n}}]{{0,200}})\Z"  # a bracket is often one token with what follows it
VALUES = (rf'"{ARGUMENTS}": ', "\n" + CALL_CLOSE)
ANY_ARGUMENTS = ValueGrammar(json_grammar({"type": "object"}, {}))


def function_of(tool: Tool, path: str, is_strict: bool) -> Function:
    """A tool, with all its arguments as one value. Raises `NoGrammar` for a strict one that is nested too deep."""
    path, schema = f"{path}.parameters", {"type": "object", **tool.parameters}
    try:
        arguments = ValueGrammar(json_grammar(schema, schema, lenient=not is_strict))
    except RecursionError:
        if is_strict:
            raise NoGrammar("it is nested too deep", path) from None
        arguments = ANY_ARGUMENTS
    return Function(tool.name, (Parameter(path, ARGUMENTS, arguments, is_required=True),))


def whole_answer(functions: Sequence[Function], several: bool) -> str:
    """The answer is calls and nothing else: one, or as many as the model likes."""
    return _grammar(functions, "start: call" + ' ("\\n" call)*' * several)


def held_calls(functions: Sequence[Function]) -> str:
    """One call from its object on, for where text around it is free: see `OPENING`."""
    return _grammar(functions, "start: object _close")


def _grammar(functions: Sequence[Function], start: str) -> str:
    lines = [start, f"call: {literal(CALL_OPEN + chr(10))} object _close", f"_close: {literal(chr(10) + CALL_CLOSE)}"]
    lines.append("object: " + " | ".join(f"f{number}" for number in range(len(functions))))
    for number, function in enumerate(functions):
        lines += _function_rules(f"{number}", function)
    return "\n".join([*lines, ""])


def _function_rules(number: str, function: Function) -> Iterator[str]:
    [arguments] = function.parameters
    head = f'{{"name": {json.dumps(function.name, ensure_ascii=False)}, "{ARGUMENTS}": '
    yield f'f{number}: {literal(head)} {arguments.grammar.expression} "}}"'
