"""`Constrainer`: from what a request asks of its answer's form to a constraint that the engine can hold it to.

Knows grammars and the engine's compiler, no dialect. What a client asks for by name is held to all that it says, or
refused. Tools merely on offer are held to what can be held: an odd schema costs nobody a conversation.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from engine.client import EngineClient
from engine.errors import RequestError
from engine.types import Constraint
from server.chat.answer_form import CallPolicy, TextForm, form_grammar, json_of
from server.chat.call_grammar import CallGrammar, Function, Parameter, single_value
from server.chat.conversation import Tool
from server.chat.value_grammar import NoGrammar
from server.errors import InvalidRequest

MOST_TOLD = 100

logger = logging.getLogger(__name__)


class Constrainer:
    """Makes constraints for one engine."""

    def __init__(
        self, engine: EngineClient, grammar: CallGrammar, holds_calls: bool, is_syntax_greedy: bool = False
    ) -> None:
        """With `holds_calls` the calls that a model makes of its own accord are held to their schemas as well. With
        `is_syntax_greedy` all of a call but its values is drawn greedily: weights of few bits slip there."""
        self._engine = engine
        self._holds_calls = holds_calls
        self._grammar = grammar
        self._values = grammar.values if is_syntax_greedy else None
        self._told: set[str] = set()

    async def constraint(self, tools: Sequence[Tool], policy: CallPolicy, form: TextForm | None) -> Constraint | None:
        """What the answer may be; None for anything.

        Raises:
            InvalidRequest: there is no such form, or it cannot be held to: which part of the request, and why.
        """
        try:
            if form is not None and not policy.is_required:
                return await self._text(form, tools, policy)
            if policy.is_forbidden:
                return await self._no_calls() if tools else None
            if policy.is_required or (tools and (self._holds_calls or any(_is_strict(tool) for tool in tools))):
                return await self._calls(tools, policy)
        except NoGrammar as error:
            raise InvalidRequest(
                f"{error.path} cannot be held to: {error.reason.rstrip('.')}.", param=error.path, code="invalid_schema"
            ) from None
        return None

    async def _text(self, form: TextForm, tools: Sequence[Tool], policy: CallPolicy) -> Constraint:
        """A text of the form; or calls, where there is room for them and tools are on offer."""
        constraint = Constraint(form_grammar(form))
        if problem := await self._problem(constraint):
            raise NoGrammar(problem, form.path)
        if not tools or policy.is_forbidden or not form.leaves_room_for_calls:
            return constraint
        return await self._calls(tools, policy, json_of(form)) or constraint

    async def _no_calls(self) -> Constraint | None:
        constraint = Constraint(self._grammar.no_calls)
        problem = await self._problem(constraint)
        if problem:
            self._tell_once("tool_choice", problem)
        return None if problem else constraint

    async def _calls(self, tools: Sequence[Tool], policy: CallPolicy, instead: str | None = None) -> Constraint | None:
        functions = [
            self._grammar.function_of(
                tool, tool.path or f"tools[{number}].function", policy.is_required or _is_strict(tool)
            )
            for number, tool in enumerate(tools)
            if policy.names is None or tool.name in policy.names
        ]
        constraint = self._constraint_of(functions, policy, instead)
        if await self._problem(constraint) is None:
            return constraint
        freed = [await self._freed(function) for function in functions]
        constraint = self._constraint_of(freed, policy, instead)
        problem = await self._problem(constraint)
        if problem is None:
            return constraint
        if any(function.is_strict for function in functions):
            raise NoGrammar(problem, "tools")
        self._tell_once("tools", problem)
        return None

    def _constraint_of(self, functions: Sequence[Function], policy: CallPolicy, instead: str | None) -> Constraint:
        if instead is not None:
            return Constraint(self._grammar.whole_answer(functions, policy.several, instead))
        if policy.is_required:
            return Constraint(self._grammar.whole_answer(functions, policy.several), None, self._values)
        return Constraint(self._grammar.held_calls(functions), self._grammar.opening, self._values)

    async def _freed(self, function: Function) -> Function:
        """The function, with parameters free whose values have no grammar. Raises `NoGrammar` for a strict one."""
        parameters: list[Parameter] = []
        for parameter in function.parameters:
            problem = None
            if parameter.grammar != self._grammar.free:
                problem = await self._problem(Constraint(single_value(parameter)))
            if problem and function.is_strict:
                raise NoGrammar(problem, parameter.path)
            if problem:
                self._tell_once(parameter.path, problem)
            parameters.append(replace(parameter, grammar=self._grammar.free) if problem else parameter)
        return replace(function, parameters=tuple(parameters))

    def _tell_once(self, path: str, problem: str) -> None:
        if path not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(path)
            logger.warning("%s in a request cannot be held to and is left free: %s", path[:200], problem[:500])

    async def _problem(self, constraint: Constraint) -> str | None:
        """Why the engine cannot hold an answer to it."""
        try:
            await self._engine.check(constraint)
        except RequestError as error:
            return error.message
        return None


def _is_strict(tool: Tool) -> bool:
    return tool.spec.get("strict") is True
