"""The real tokenizer: golden ids, control tokens only where they belong, and no message encoded twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import LoadError
from server.chat.conversation import Conversation, Message, Tool, ToolCall
from server.chat.piece_cache import PieceCache
from server.chat.template import ChatTemplate, RenderedPrompt
from server.chat.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_tokens.json").read_text(encoding="utf-8"))["cases"]
FRAGMENTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<|fim_prefix|>",
        " ",
        "\n",
        "\r\n",
        "it's",
        "１２3",
        "é",
        "e\u0301",
        "🙂",
        "<|im_",
        "\t",
    ]
)
WITHOUT_SPECIALS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=10).map("".join)


@pytest.fixture(scope="module")
def reference(tokenizer_json: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer_json)


@pytest.fixture
def fresh(tokenizer_json: str) -> tuple[Tokenizer, list[str]]:
    """A tokenizer with an empty cache, and the list of what it really encodes."""
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json))
    encoded: list[str] = []
    encode = tokenizer._encode_plain

    def note(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    tokenizer._encode_plain = note  # type: ignore[method-assign]
    return tokenizer, encoded


@pytest.mark.parametrize("case", GOLDEN, ids=[str(index) for index in range(len(GOLDEN))])
def test_golden_ids(tokenizer: Tokenizer, case: dict[str, object]) -> None:
    assert isinstance(case["text"], str)
    ids = tokenizer.encode(case["text"], parse_special=True)
    assert ids == case["ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == case["text"].replace("e\u0301", "é")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WITHOUT_SPECIALS, WITHOUT_SPECIALS, WITHOUT_SPECIALS)
def test_prompts_are_tokenized_as_one_string(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, template: ChatTemplate, a: str, b: str, c: str
) -> None:
    call = ToolCall("1", "f", {"k": b, "n": {c: 1}})
    conversation = Conversation(
        (Message("system", a), Message("user", b), Message("assistant", c, (call,)), Message("tool", a)),
        (Tool("f", {"name": "f", "description": c}),),
    )
    rendered = template.render(conversation, tokenizer.special_tokens)
    assert tokenizer.encode_prompt(rendered)[0] == reference.encode(rendered.text, add_special_tokens=False).ids


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(FRAGMENTS, st.sampled_from(["<|im_end|>", "<|endoftext|>"]), st.text(max_size=8))))
def test_parsing_control_tokens_is_what_the_library_does(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, fragments: list[str]
) -> None:
    text = "".join(fragments)
    ids = reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, parse_special=True) == ids
    assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids, skip_special_tokens=False)


def test_control_tokens_in_a_message_stay_text(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    conversation = Conversation((Message("user", "a<|im_end|>b<tool_call>"),))
    rendered = template.render(conversation, tokenizer.special_tokens)
    ids, _ = tokenizer.encode_prompt(rendered)
    assert [token_id for token_id in ids if tokenizer.is_special(token_id)] == [151644, 151645, 151644]
    assert 151657 in ids  # <tool_call> is one token, whoever writes it
    assert tokenizer.decode(ids, skip_special_tokens=False) == rendered.text


def test_messages_end_before_the_next_begins(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    messages = (
        Message("system", "a<|im_start|>"),
        Message("user", "b"),
        Message("assistant", "c"),
        Message("user", "d"),
    )
    ids, boundaries = tokenizer.encode_prompt(template.render(Conversation(messages), tokenizer.special_tokens))
    starts = [0, *boundaries]
    assert all(ids[start] == tokenizer.token_to_id("<|im_start|>") for start in starts)
    texts = [tokenizer.decode(ids[start:end]) for start, end in zip(starts, [*boundaries, None], strict=True)]
    assert texts == ["system\na<|im_start|>\n", "user\nb\n", "assistant\nc\n", "user\nd\n", "assistant\n"]
    assert tokenizer.encode_prompt(RenderedPrompt("no control token")) == (
        tokenizer.encode("no control token", parse_special=False),
        [],
    )


def test_plain_encoding_makes_no_control_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_end|><|fim_middle|>", parse_special=False)
    assert ids[-1] == 151660
    assert not any(map(tokenizer.is_special, ids))
    assert tokenizer.decode(ids) == "<|im_end|><|fim_middle|>"


def test_half_a_surrogate_pair_is_a_replacement(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83db", parse_special=False)) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode_prompt(RenderedPrompt("\udc00"))[0]) == "\ufffd"


def test_a_second_turn_encodes_only_what_is_new(fresh: tuple[Tokenizer, list[str]], template: ChatTemplate) -> None:
    tokenizer, encoded = fresh
    first = (Message("system", "S" * 1000), Message("user", "one"))
    tokenizer.encode_prompt(template.render(Conversation(first), tokenizer.special_tokens))
    encoded.clear()

    second = (*first, Message("assistant", "two"), Message("user", "three"))
    rendered = template.render(Conversation(second), tokenizer.special_tokens)
    ids, _ = tokenizer.encode_prompt(rendered)

    assert encoded == ["assistant\ntwo", "user\nthree"]
    assert ids == tokenizer.encode(rendered.text, parse_special=True)


def test_many_threads_get_the_same(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    prompts = [
        template.render(Conversation((Message("user", f"{n % 7} x" * 50),)), tokenizer.special_tokens)
        for n in range(60)
    ]
    expected = [tokenizer.encode(prompt.text, parse_special=True) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert [ids for ids, _ in pool.map(tokenizer.encode_prompt, prompts)] == expected


def test_the_cache_keeps_to_its_bytes() -> None:
    cache = PieceCache(max_bytes=2000)
    cache.put("a" * 500, range(10))
    cache.put("b" * 500, range(20))
    assert cache.get("a" * 500) is not None  # used: now b is the oldest
    cache.put("c" * 500, range(30))
    assert [cache.get(letter * 500) is not None for letter in "abc"] == [True, False, True]
    cache.put("c" * 500, range(30))
    assert cache.num_bytes <= 2000
    cache.put("d" * 5000, range(10))  # larger than everything: not worth it
    assert cache.get("d" * 5000) is None
    assert cache.get("a" * 500) is not None


def test_single_tokens(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.max_id) == (151_669, 151_668)
    assert tokenizer.token_bytes(151645) == b"<|im_end|>"
    assert tokenizer.token_bytes(21927) == b" Hello"
    assert tokenizer.token_bytes(151_700) == b""
    assert tokenizer.id_to_text(151657) == "<tool_call>"
    assert tokenizer.token_to_id("<|fim_prefix|>") == 151659
    assert tokenizer.token_to_id(" Hello") == 21927
    assert tokenizer.token_to_id("Hello, world!") is None
    assert (tokenizer.is_special(151645), tokenizer.is_special(151657)) == (True, False)
    assert (tokenizer.is_added(151657), tokenizer.is_added(21927)) == (True, False)


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    assert sorted(tokenizer.token_bytes(token_id) for token_id in range(256)) == [bytes([n]) for n in range(256)]


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(LoadError, match="not a byte-level BPE"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))
    odd = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"日": 0}, merges=[]))
    odd.decoder = tokenizers.decoders.ByteLevel()
    with pytest.raises(LoadError, match="not in the byte-level alphabet"):
        Tokenizer(odd)
