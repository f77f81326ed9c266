"""What becomes of every request parameter that the schema does not declare: refused by name, or knowingly ignored."""

from collections.abc import Mapping

from server.dialects.anthropic.schema import MessagesRequest, PromptFields
from server.parameters import ParameterTable, Refusal

REFUSED: Mapping[str, Refusal] = {
    "container": Refusal("this server runs no code"),
    "mcp_servers": Refusal("this server calls no others", ([],)),
    "compaction": Refusal("this server summarises nothing"),
    "fallbacks": Refusal("there is one model", ([],)),
    "thread": Refusal("nothing is stored; send the whole conversation"),
}

IGNORED: Mapping[str, str] = {
    "anthropic_beta": "what is served here needs no leave",
    "anthropic_version": "there is one version",
    "betas": "what is served here needs no leave",
    "billing_policy": "nobody is billed",
    "cache_control": "prompts are always cached, as long as there is room",
    "context_management": "nothing is taken out of a conversation; thinking is never part of it",
    "diagnostics": "the log has them",
    "fallback_credit_token": "nobody is billed",
    "inference_geo": "there is one model in one place",
    "service_tier": "there is one model in one place",
    "speed": "there is one speed",
    "thinking": "this model does not think aloud",
    "user_profile_id": "nothing is stored",
    "workspace_id": "nothing is stored",
}

PARAMETERS = ParameterTable(REFUSED, IGNORED)

# Counting takes the body of a message as it is; what only concerns the answer says nothing then.
_ANSWERS_OWN = MessagesRequest.model_fields.keys() - PromptFields.model_fields.keys()
COUNTING = ParameterTable(REFUSED, {**IGNORED, **dict.fromkeys(_ANSWERS_OWN, "nothing is generated")})
