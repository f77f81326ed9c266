"""What becomes of the parameters that the schema does not declare: those of a request, and those among its options.

See `server.parameters`.
"""

from server.parameters import ParameterTable, Refusal

_NO_SAMPLER = "this sampling method is not supported"
_NO_IMAGES = Refusal("the model neither sees nor draws", ([], 0))

_THE_OPERATORS = "the operator sets up the model, once for all"
_NEVER_CUT = "prompts are never cut silently: one that does not fit is refused"
_OF_MIROSTAT = "only mirostat reads it, which is refused"

PARAMETERS = ParameterTable(
    refused={
        "context": Refusal("send the conversation to /api/chat", ([],)),
        "height": _NO_IMAGES,
        "images": _NO_IMAGES,
        "steps": _NO_IMAGES,
        "template": Refusal("the template is the model's own", ("",)),
        "width": _NO_IMAGES,
    },
    ignored={
        "insecure": "nothing is fetched",
        "shift": _NEVER_CUT,
        "stream": "a model that is there is pulled in one line",
        "think": "this model does not think aloud",
        "truncate": _NEVER_CUT,
        "verbose": "tensors and vocabulary are not listed",
    },
)

OPTIONS = ParameterTable(
    refused={
        "mirostat": Refusal(_NO_SAMPLER, (0,)),
        "tfs_z": Refusal(_NO_SAMPLER, (1,)),
        "typical_p": Refusal(_NO_SAMPLER, (1,)),
    },
    ignored={
        **dict.fromkeys(
            ("embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch"), _THE_OPERATORS
        ),
        **dict.fromkeys(("num_gpu", "num_gqa", "num_thread", "numa", "rope_frequency_base"), _THE_OPERATORS),
        **dict.fromkeys(("rope_frequency_scale", "use_mlock", "use_mmap", "vocab_only"), _THE_OPERATORS),
        "mirostat_eta": _OF_MIROSTAT,
        "mirostat_tau": _OF_MIROSTAT,
        "num_ctx": "the context is as long as the server has room for, see /api/show, whatever is asked",
        "num_keep": "contexts are never shifted",
        "penalize_newline": "penalties fall on every token alike",
    },
)
