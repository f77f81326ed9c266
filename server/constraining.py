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
from server.chat.answer_form import CallPolicy, TextForm, form_grammar
from server.chat.call_formats import CallGrammar
from server.chat.call_grammar import Function, Parameter, single_value
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
            if policy.is_required:
                return await self._calls(tools, policy)
            if form is not None:
                return await self._compiled(Constraint(form_grammar(form)), form.path)
            if tools and (self._holds_calls or any(_is_strict(tool) for tool in tools)):
                return await self._held(tools, policy)
        except NoGrammar as error:
            raise _refusal(error) from None
        return None

    async def _calls(self, tools: Sequence[Tool], policy: CallPolicy) -> Constraint:
        functions = [
            self._grammar.function_of(tool, f"tools[{number}].function", True)
            for number, tool in enumerate(tools)
            if policy.names is None or tool.name in policy.names
        ]
        constraint = Constraint(self._grammar.whole_answer(functions, policy.several), None, self._values)
        try:
            await self._engine.check(constraint)
        except RequestError as error:
            raise await self._located(functions, error) from None
        return constraint

    async def _held(self, tools: Sequence[Tool], policy: CallPolicy) -> Constraint | None:
        functions = []
        strict = set()
        for number, tool in enumerate(tools):
            if policy.names is not None and tool.name not in policy.names:
                continue
            functions.append(self._grammar.function_of(tool, f"tools[{number}].function", _is_strict(tool)))
            if _is_strict(tool):
                strict.add(tool.name)
        constraint = Constraint(self._grammar.held_calls(functions), self._grammar.opening, self._values)
        try:
            await self._engine.check(constraint)
        except RequestError:
            freed = [await self._freed(function, function.name in strict) for function in functions]
            constraint = Constraint(self._grammar.held_calls(freed), self._grammar.opening, self._values)
            try:
                await self._engine.check(constraint)
            except RequestError as error:
                if strict:
                    raise NoGrammar(error.message, "tools") from None
                self._tell_once("tools", error.message)
                return None
        return constraint

    async def _freed(self, function: Function, is_strict: bool) -> Function:
        """The function, with free text for those parameters whose values no grammar can be made of."""
        parameters: list[Parameter] = []
        for parameter in function.parameters:
            problem = await self._problem(parameter)
            if problem and is_strict:
                raise NoGrammar(problem, parameter.path)
            if problem:
                self._tell_once(parameter.path, problem)
            parameters.append(replace(parameter, grammar=self._grammar.free) if problem else parameter)
        return replace(function, parameters=tuple(parameters))

    def _tell_once(self, path: str, problem: str) -> None:
        if path not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(path)
            logger.warning("%s in a request cannot be held to and is left free: %s", path[:200], problem[:500])

    async def _located(self, functions: Sequence[Function], error: RequestError) -> InvalidRequest:
        """Which parameter it is that no grammar can be made of."""
        for function in functions:
            for parameter in function.parameters:
                if problem := await self._problem(parameter):
                    return _refusal(NoGrammar(problem, parameter.path))
        return _refusal(NoGrammar(error.message, "tools"))

    async def _problem(self, parameter: Parameter) -> str | None:
        if parameter.grammar == self._grammar.free:
            return None
        try:
            await self._engine.check(Constraint(single_value(parameter)))
        except RequestError as error:
            return error.message
        return None

    async def _compiled(self, constraint: Constraint, path: str) -> Constraint:
        try:
            await self._engine.check(constraint)
        except RequestError as error:
            raise NoGrammar(error.message, path) from None
        return constraint


def _is_strict(tool: Tool) -> bool:
    return tool.spec.get("strict") is True


def _refusal(error: NoGrammar) -> InvalidRequest:
    return InvalidRequest(
        f"{error.path} cannot be held to: {error.reason.rstrip('.')}.", param=error.path, code="invalid_schema"
    )
