"""`ServedModel`: what the server knows of the model it serves, all of it text: names, tokenizer, template, defaults.

Made once at start from the model's folder or GGUF file. Weights and tensors are the engine's.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from engine import is_gguf
from server.chat.call_formats import CallFormat, call_format
from server.chat.fim import FillInTheMiddle, fill_in_the_middle
from server.chat.gguf_files import read_gguf_files
from server.chat.model_files import GenerationDefaults, ModelFiles, read_model_files
from server.chat.template import ChatTemplate
from server.chat.tokenizer import Tokenizer
from server.errors import NotFound
from server.validation import shorten

BUNDLED_NAME = "qwen3-coder-nano"
FALLBACK_NAME = "qwen3-coder-next"
LATEST = ":latest"  # the version that is meant where a name says none
_GGUF_ENDING = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under its names; the first is the default.

    `call_format` is how it writes tool calls, `fim` how it fills in the middle, if it can; `created` is when this
    server loaded it, in Unix seconds.
    """

    names: tuple[str, ...]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    call_format: CallFormat
    fim: FillInTheMiddle | None
    defaults: GenerationDefaults
    created: int
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None

    @property
    def name(self) -> str:
        """The default name, used in answers and metrics."""
        return self.names[0]

    @property
    def takes_tools(self) -> bool:
        """Whether its chat template tells it of tools."""
        return self.template is not None and "tools" in self.template.source

    def resolve(self, requested: str) -> str:
        """The name to answer under. An empty one means the default; `:latest` may be there or not, as with Ollama.

        Raises:
            NotFound: it is none of ours.
        """
        if not requested:
            return self.name
        for name in (requested, requested.removesuffix(LATEST), requested + LATEST):
            if name in self.names:
                return name
        raise NotFound(
            f"The model {shorten(requested)} is not served here. Served: {', '.join(self.names)}.",
            param="model",
            code="model_not_found",
        )


def read_files(path: Path) -> ModelFiles:
    """The texts of the model at `path`: a GGUF file, or a folder. Raises `LoadError`."""
    return read_gguf_files(path) if is_gguf(path) else read_model_files(path)


def served_model(files: ModelFiles, names: tuple[str, ...]) -> ServedModel:
    """Make the model's text side from its files."""
    template = None
    if files.chat_template is not None:
        template = ChatTemplate(files.chat_template, bos_token=files.bos_token, eos_token=files.eos_token)
    tokenizer = Tokenizer(files.tokenizer)
    return ServedModel(
        names=names,
        tokenizer=tokenizer,
        template=template,
        call_format=call_format(files.chat_template),
        fim=fill_in_the_middle(tokenizer),
        defaults=files.generation_defaults,
        created=int(time.time()),
        bos_token=files.bos_token,
        eos_token=files.eos_token,
        pad_token=files.pad_token,
    )


def default_names(model: Path | None) -> tuple[str, ...]:
    """Names for a model whose user gave none.

    Editors pick their fill-in-the-middle template by a name with both "qwen" and "coder" in it. A folder or file with
    another name is served under its own, with the family's name beside it.
    """
    if model is None:
        return (BUNDLED_NAME,)
    name = _GGUF_ENDING.sub("", model.resolve().name)
    if "qwen" in name.lower() and "coder" in name.lower():
        return (name,)
    return (FALLBACK_NAME, name)
