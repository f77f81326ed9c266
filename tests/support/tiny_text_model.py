"""The text side of a model in miniature: a byte-level tokenizer with one token a byte, and a ChatML template."""

import json
from functools import cache

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from server.chat.model_files import GenerationDefaults, ModelFiles
from server.model import ServedModel, served_model

SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
MARKS = ("<tool_call>", "</tool_call>")
TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {{ tools | map(attribute='function') | map(attribute='name') | join(', ') }}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}[{{ call.function.name }}
{%- for name, value in call.function.arguments | items %} {{ name }}={{ value }}{% endfor %}]{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tokenizer() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    inner.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKS])
    return inner


def tokenizer_json() -> str:
    return tokenizer().to_str()


def tiny_files(**defaults: object) -> ModelFiles:
    return ModelFiles(
        tokenizer=tokenizer(),
        chat_template=TEMPLATE,
        generation_defaults=GenerationDefaults(**defaults),  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


@cache
def tiny_model(*names: str, **defaults: object) -> ServedModel:
    return served_model(tiny_files(**defaults), names or ("tiny-qwen-coder",))


def write_tiny_model(folder: str) -> None:
    """The files of the model, as `read_model_files` looks for them."""
    files = tiny_files()
    contents = {
        "tokenizer.json": files.tokenizer.to_str(),
        "chat_template.jinja": TEMPLATE,
        "tokenizer_config.json": json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
    }
    for name, content in contents.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(content)
