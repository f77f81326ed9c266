"""What form an answer must have, as every dialect can say it, and the grammar of that form.

Lives here: choices about tool calls and about text, neutral and small. It may not know any dialect, nor the engine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llguidance import grammar_from

from server.chat.value_grammar import NoGrammar, json_grammar, literal

FormKind = Literal["json_schema", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """Whether and what the model is to call.

    Attributes:
        is_required: the answer is a call.
        names: of the tools that may be called; None for all on offer.
        several: there may be more calls than one.
        is_forbidden: the model knows the tools, for the prompt is to begin as before, but may call none.
    """

    is_required: bool = False
    names: frozenset[str] | None = None
    several: bool = True
    is_forbidden: bool = False


@dataclass(frozen=True, slots=True)
class TextForm:
    """What the answer's text has to be: JSON of a schema, a match of a regular expression, one of some texts, or a
    sentence of a grammar (Lark, or GBNF as llama.cpp writes it). `path` is the request's parameter that says so."""

    kind: FormKind
    value: Any
    path: str

    @property
    def leaves_room_for_calls(self) -> bool:
        """Whether an answer that is a call is told by its first character: JSON never begins as a tag does."""
        return self.kind == "json_schema"


ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def form_grammar(form: TextForm) -> str:
    """The grammar of a text. Raises `NoGrammar` for what is none; whether it makes sense the engine says."""
    match form.kind:
        case "json_schema":
            return f"start: {json_of(form)}\n"
        case "choice":
            return f"start: {' | '.join(literal(choice) for choice in _choices(form))}\n"
        case "regex" | "grammar":
            try:
                return grammar_from(form.kind, _text(form))
            except ValueError as error:  # half a character too
                raise NoGrammar(str(error), form.path) from None


def json_of(form: TextForm) -> str:
    """An expression in Lark for JSON of the form's schema. Raises `NoGrammar`."""
    schema = form.value
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise NoGrammar(f"it is no JSON: {error}", form.path) from None
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise NoGrammar("it must be a JSON schema, an object", form.path)
    try:
        return json_grammar(schema, schema)
    except RecursionError:
        raise NoGrammar("it is nested too deep", form.path) from None


def _choices(form: TextForm) -> Sequence[str]:
    choices = form.value
    if not isinstance(choices, list | tuple) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise NoGrammar("it must be a list of texts, none of them empty", form.path)
    return choices


def _text(form: TextForm) -> str:
    if not isinstance(form.value, str) or not form.value:
        raise NoGrammar("it must be a text, and not empty", form.path)
    return form.value
