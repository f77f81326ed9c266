"""What becomes of every request parameter that the schema does not declare: refused by name, or knowingly ignored."""

from collections.abc import Mapping

from server.parameters import ParameterTable, Refusal

_NO_SAMPLER = "this sampling method is not supported"
_OURS = "the server looks after its cache itself"
_OF_REFUSED = "only says how a sampling method works that is refused"

REFUSED: Mapping[str, Refusal] = {
    "dry_multiplier": Refusal(_NO_SAMPLER, (0,)),
    "dynatemp_range": Refusal(_NO_SAMPLER, (0,)),
    "image_data": Refusal("this model reads only text", ([],)),
    "lora": Refusal("adapters are not supported", ([],)),
    "mirostat": Refusal(_NO_SAMPLER, (0,)),
    "multimodal_data": Refusal("this model reads only text", ([],)),
    "n_probs": Refusal("use logprobs of /v1/completions", (0,)),
    "tfs_z": Refusal(_NO_SAMPLER, (1,)),
    "top_n_sigma": Refusal(_NO_SAMPLER, (-1,)),
    "typical_p": Refusal(_NO_SAMPLER, (1,)),
    "xtc_probability": Refusal(_NO_SAMPLER, (0,)),
}

IGNORED: Mapping[str, str] = {
    "cache_prompt": "prompts are always cached, as long as there is room",
    "dry_allowed_length": _OF_REFUSED,
    "dry_base": _OF_REFUSED,
    "dry_penalty_last_n": _OF_REFUSED,
    "dry_sequence_breakers": _OF_REFUSED,
    "dynatemp_exponent": _OF_REFUSED,
    "id_slot": "the scheduler chooses",
    "min_keep": "one token always stays",
    "mirostat_eta": _OF_REFUSED,
    "mirostat_tau": _OF_REFUSED,
    "n_cache_reuse": _OURS,
    "n_discard": "contexts are never shifted",
    "n_keep": "contexts are never shifted",
    "post_sampling_probs": "there are no probabilities in these answers",
    "repeat_last_n": "penalties look at all tokens",
    "samplers": "the order of the samplers is fixed",
    "sse_ping_interval": "the operator sets it",
    "t_max_prompt_ms": "prompts are always read to their end, and kept",
    "timings_per_token": "timings come with the last event",
    "xtc_threshold": _OF_REFUSED,
}

PARAMETERS = ParameterTable(REFUSED, IGNORED)
