"""Calls that are held to their grammar are read as what the schemas admit, whatever is drawn."""

import json
from random import Random

import pytest
from jsonschema import Draft202012Validator

from engine.constraints.constraints import Constraints
from engine.types import Constraint
from server.chat.call_formats import CallFormat, call_grammar_of, call_parser
from server.chat.call_grammar import function_of, whole_answer
from server.chat.call_pieces import CallArguments, CallEnded, CallStarted, TextPiece
from server.chat.conversation import Tool
from tests.support.grammar_walks import EOS, vocabulary, walk
from tests.support.tool_schemas import tool

NUM_SCHEMAS, NUM_GROUPS, WALKS = 500, 25, 1


@pytest.fixture(scope="module")
def constraints() -> Constraints:
    return Constraints(vocabulary, (EOS,))


def calls_of(answer: str, tools: tuple[Tool, ...], form: CallFormat) -> list[tuple[str, object]]:
    """Names and arguments. All of the answer is calls, and all of them are complete."""
    parser = call_parser(form, tools, are_held=True)
    pieces = [*parser.feed(answer), *parser.finish()]
    assert not any(isinstance(piece, TextPiece) for piece in pieces)
    names = [piece.name for piece in pieces if isinstance(piece, CallStarted)]
    texts = ["" for _ in names]
    for piece in pieces:
        if isinstance(piece, CallArguments):
            texts[piece.index] += piece.fragment
    assert sum(isinstance(piece, CallEnded) for piece in pieces) == len(names)
    return [(name, json.loads(text)) for name, text in zip(names, texts, strict=True)]


def check(answer: str, tools: tuple[Tool, ...], form: CallFormat = CallFormat.XML) -> None:
    by_name = {tool.name: tool for tool in tools}
    calls = calls_of(answer, tools, form)
    assert calls
    for name, arguments in calls:
        problems = [error.message for error in Draft202012Validator(by_name[name].parameters).iter_errors(arguments)]
        assert not problems, (answer, by_name[name].parameters, problems)


@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_every_call_validates(group: int, constraints: Constraints) -> None:
    num_ended = 0
    for seed in range(group * NUM_SCHEMAS // NUM_GROUPS, (group + 1) * NUM_SCHEMAS // NUM_GROUPS):
        rng = Random(seed)
        tools = (tool(rng),)
        form = CallFormat.HERMES if seed % 5 == 0 else CallFormat.XML
        grammar = call_grammar_of(form)
        constraint = Constraint(grammar.whole_answer([grammar.function_of(tools[0], "tools[0]", True)], seed % 2 == 0))
        for _ in range(WALKS):
            answer = walk(constraints, constraint, rng)
            if answer is not None:
                num_ended += 1
                check(answer, tools, form)
    assert num_ended > NUM_SCHEMAS // NUM_GROUPS // 2


def test_sixty_tools_at_once(constraints: Constraints) -> None:
    rng = Random(7)
    tools = tuple(tool(rng, f"tool_{number}") for number in range(60))
    functions = [function_of(tool, "tools", is_strict=True) for tool in tools]
    answers = [walk(constraints, Constraint(whole_answer(functions, several=True)), rng) for _ in range(10)]
    for answer in filter(None, answers):
        check(answer, tools)
    assert any(answers)
