"""The files of the bundled model: their template, tokens, sizes and configuration, without loading the weights."""

import json
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import safe_open
from tokenizers import Tokenizer

FOLDER = Path(__file__).parents[2] / "engine" / "nano"
CASES = json.loads(Path(__file__).with_name("chat_cases.json").read_text("utf-8"))
CONTROL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TEXT_TOKENS = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip


def contents(name: str) -> dict:
    return json.loads((FOLDER / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_template_renders_the_golden_cases(case):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((FOLDER / "chat_template.jinja").read_text("utf-8"))
    assert template.render(**case["input"]) == case["expected"]


def test_special_tokens_come_last_in_the_usual_order_with_the_usual_flags(tokenizer):
    texts = CONTROL_TOKENS + TEXT_TOKENS
    ids = [tokenizer.token_to_id(text) for text in texts]
    assert ids == list(range(tokenizer.get_vocab_size() - len(texts), tokenizer.get_vocab_size()))
    added = tokenizer.get_added_tokens_decoder()
    assert [added[token].special for token in ids] == [True] * len(CONTROL_TOKENS) + [False] * len(TEXT_TOKENS)


def test_text_rules(tokenizer):
    assert tokenizer.encode("x1234").tokens == ["x", "1", "2", "3", "4"]
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids
    text = "def f(x):\n\treturn 'ü 漢字 🙂'  # <tool_call>\r\n\n\n"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_everything_is_there_and_small():
    names = {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "README.md",
    }  # fmt: skip
    present = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert names <= present
    assert sum((FOLDER / name).stat().st_size for name in present) < 24_000_000


def test_configuration_is_that_of_the_architecture(tokenizer):
    config = contents("config.json")
    assert config["model_type"] == "qwen3_next"
    assert config["num_hidden_layers"] >= 2 * config["full_attention_interval"]
    assert config["linear_num_value_heads"] == 2 * config["linear_num_key_heads"]
    assert config["max_position_embeddings"] >= 131072
    assert config["vocab_size"] > tokenizer.get_vocab_size()
    assert config["eos_token_id"] == tokenizer.token_to_id("<|im_end|>")
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    assert contents("generation_config.json")["eos_token_id"] == ends
    assert contents("tokenizer_config.json")["eos_token"] == "<|im_end|>"


def test_weights_have_the_published_names_and_are_bf16():
    config = contents("config.json")
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [config["vocab_size"], config["hidden_size"]]
    for layer in range(config["num_hidden_layers"]):
        mixer = "self_attn.q_proj" if (layer + 1) % 4 == 0 else "linear_attn.in_proj_qkvz"
        assert f"model.layers.{layer}.{mixer}.weight" in names
        for expert in range(config["num_experts"]):
            assert f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight" in names
