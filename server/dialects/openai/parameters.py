"""What becomes of every request parameter that the schema does not declare: refused by name, or knowingly ignored.

The schema's fields are honoured. These two tables hold the rest of what clients are known to send, with the reason that
the documentation and the error message give. A name in neither is a stranger: ignored, with one warning in the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a parameter is refused. Its `neutral` values ask for nothing and pass."""

    reason: str
    neutral: tuple[Any, ...] = ()


_GUIDED = Refusal("use structured_outputs")
_NO_SAMPLER = "this sampling method is not supported"
_NO_IDS = Refusal("token ids in answers are not supported", (False,))

REFUSED: Mapping[str, Refusal] = {
    "audio": Refusal("the model neither hears nor speaks"),
    "bad_words": Refusal("use logit_bias with token ids instead", ([],)),
    "best_of": Refusal("use n and choose among the answers", (1,)),
    "chat_template": Refusal("the template is the model's own; see chat_template_kwargs"),
    "documents": Refusal("put documents into the messages", ([],)),
    "dry_multiplier": Refusal(_NO_SAMPLER, (0,)),
    "dynatemp_range": Refusal(_NO_SAMPLER, (0,)),
    "function_call": Refusal("use tool_choice", ("none", "auto")),
    "functions": Refusal("use tools", ([],)),
    "guided_choice": _GUIDED,
    "guided_grammar": _GUIDED,
    "guided_json": _GUIDED,
    "guided_regex": _GUIDED,
    "guided_whitespace_pattern": _GUIDED,
    "kv_transfer_params": Refusal("this server does not split work with others"),
    "length_penalty": Refusal("beam search is not supported", (1, 1.0)),
    "logits_processors": Refusal("requests cannot bring code", ([],)),
    "lora": Refusal("adapters are not supported", ([],)),
    "mirostat": Refusal(_NO_SAMPLER, (0,)),
    "modalities": Refusal("only text comes out of this model", (["text"],)),
    "n_indent": Refusal("only /infill has it, which is not offered here", (0,)),
    "n_predict": Refusal("use max_tokens"),
    "prompt_embeds": Refusal("send text or token ids"),
    "prompt_logprobs": Refusal("log-probabilities of the prompt are not supported yet"),
    "return_prompt_text": Refusal("it is not supported; see /tokenize", (False,)),
    "return_token_ids": _NO_IDS,
    "return_tokens_as_token_ids": _NO_IDS,
    "stop_regex": Refusal("use stop with plain strings", ([], "")),
    "suffix": Refusal("fill-in-the-middle through suffix is not supported yet; write the model's own marks", ("",)),
    "t_max_predict_ms": Refusal("use max_tokens", (0, -1)),
    "tfs_z": Refusal(_NO_SAMPLER, (1, 1.0)),
    "thinking_token_budget": Refusal("this model does not think aloud"),
    "truncate_prompt_tokens": Refusal("prompts are never cut silently", (-1,)),
    "typical_p": Refusal(_NO_SAMPLER, (1, 1.0)),
    "use_beam_search": Refusal("beam search is not supported", (False,)),
    "web_search_options": Refusal("this server searches nothing"),
    "xtc_probability": Refusal(_NO_SAMPLER, (0,)),
}

_OUR_CACHE = "prompts are always cached, as long as there is room"
_ONE_PLACE = "there is one model in one place"
_WHOLE_ANSWER = "the answer always has its usual members"

IGNORED: Mapping[str, str] = {
    "add_special_tokens": "the template writes the control tokens, and this tokenizer adds none of its own",
    "cache_prompt": _OUR_CACHE,
    "id_slot": "the scheduler chooses",
    "include_reasoning": "this model does not think aloud",
    "metadata": "nothing is stored",
    "mm_processor_kwargs": "only text goes in",
    "n_keep": "contexts are never shifted",
    "post_sampling_probs": "log-probabilities are those before sampling",
    "prediction": "a hint about speed; the answer is the same without",
    "prompt_cache_retention": _OUR_CACHE,
    "provider": _ONE_PLACE,
    "reasoning": "this model does not think aloud",
    "reasoning_effort": "this model does not think aloud",
    "response_fields": _WHOLE_ANSWER,
    "return_progress": _WHOLE_ANSWER,
    "return_tokens": _WHOLE_ANSWER,
    "safety_identifier": "nothing is stored",
    "samplers": "the order of the samplers is fixed",
    "service_tier": _ONE_PLACE,
    "sse_ping_interval": "the operator sets it",
    "store": "nothing is stored",
    "stream_interval": "tokens are sent as they come",
    "timings_per_token": _WHOLE_ANSWER,
    "user": "nothing is stored",
    "verbosity": "this model has no such control",
    "vllm_xargs": "there are no plug-ins to read it",
}


def refusal_of(name: str, value: Any) -> str | None:
    """Why a parameter with this value is refused; None when it is not."""
    refusal = REFUSED.get(name)
    if refusal is None or any(value == neutral for neutral in refusal.neutral):
        return None
    return f"{name} is not supported: {refusal.reason}."
