"""What becomes of every request parameter that the schema does not declare: refused by name, or knowingly ignored.

See `server.parameters`.
"""

from collections.abc import Mapping

from server.parameters import ParameterTable, Refusal

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
    "n_indent": Refusal("only /infill and /completion have it", (0,)),
    "n_predict": Refusal("use max_tokens"),
    "prompt_embeds": Refusal("send text or token ids"),
    "prompt_logprobs": Refusal("use echo with logprobs, which completions have"),
    "return_prompt_text": Refusal("it is not supported; see /tokenize", (False,)),
    "return_token_ids": _NO_IDS,
    "return_tokens_as_token_ids": _NO_IDS,
    "stop_regex": Refusal("use stop with plain strings", ([], "")),
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
    "add_special": "this tokenizer adds no tokens of its own",
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
    "return_tokens": _WHOLE_ANSWER,
    "safety_identifier": "nothing is stored",
    "samplers": "the order of the samplers is fixed",
    "service_tier": _ONE_PLACE,
    "sse_ping_interval": "the operator sets it",
    "store": "nothing is stored",
    "stream_interval": "tokens are sent as they come",
    "timings_per_token": "timings come with the last event",
    "user": "nothing is stored",
    "verbosity": "this model has no such control",
    "vllm_xargs": "there are no plug-ins to read it",
}

PARAMETERS = ParameterTable(REFUSED, IGNORED)
