"""What becomes of every request parameter that the schema does not declare: refused by name, or knowingly ignored."""

from collections.abc import Mapping

from server.parameters import ParameterTable, Refusal

_USE_CEILING = Refusal("use max_output_tokens")

REFUSED: Mapping[str, Refusal] = {
    "background": Refusal("an answer is worked on while its client waits; stream it", (False,)),
    "conversation": Refusal("use previous_response_id, or send the whole conversation"),
    "max_completion_tokens": _USE_CEILING,
    "max_tokens": _USE_CEILING,
    "messages": Refusal("use input"),
    "moderation": Refusal("this server judges nothing"),
    "prompt": Refusal("there are no prompt templates here; send input and instructions"),
    "response_format": Refusal("use text.format", ({"type": "text"},)),
}

_NO_THOUGHTS = "this model does not think aloud"
_ONE_PLACE = "there is one model in one place"
_OUR_CACHE = "prompts are always cached, as long as there is room"
_KEPT_ASIDE = "nothing is done with it"

IGNORED: Mapping[str, str] = {
    "client_metadata": _KEPT_ASIDE,
    "context_management": "nothing is taken out of a conversation; one that is too long is refused",
    "max_tool_calls": "it counts calls of tools that run on the server, and there are none",
    "prompt_cache_options": _OUR_CACHE,
    "prompt_cache_retention": _OUR_CACHE,
    "reasoning": _NO_THOUGHTS,
    "safety_identifier": _KEPT_ASIDE,
    "service_tier": _ONE_PLACE,
    "stream_options": "nothing is obfuscated",
    "truncation": "an input is never cut silently; one that is too long is refused",
    "user": _KEPT_ASIDE,
}

PARAMETERS = ParameterTable(REFUSED, IGNORED)
