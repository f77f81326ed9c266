"""Detokenizing in portions is detokenizing at once."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.chat.detokenizer import Detokenizer
from server.chat.tokenizer import Tokenizer

EMOJI = "naïve 🙂👩‍💻 你好"
LONELY = st.sampled_from([94, 95, 97, 122, 178, 235, 145833, 151645, 151657, 151900, 0, 10**9])  # parts of characters


def portions_text(tokenizer: Tokenizer, portions: list[list[int]], skip: bool) -> str:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    return "".join([detokenizer.feed(portion) for portion in portions]) + detokenizer.flush()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    portions=st.lists(st.lists(st.one_of(st.integers(0, 152_000), st.integers(94, 255), LONELY), max_size=6)),
    skip=st.booleans(),
)
def test_any_ids_in_any_portions(tokenizer: Tokenizer, portions: list[list[int]], skip: bool) -> None:
    ids = [token_id for portion in portions for token_id in portion]
    assert portions_text(tokenizer, portions, skip) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_never_splits_a_character(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    texts = [detokenizer.feed([token_id]) for token_id in tokenizer.encode(EMOJI, parse_special=False)]
    assert "".join(texts) == EMOJI
    assert all("\ufffd" not in text for text in texts)
    assert "" in texts  # some token ended inside a character
    assert detokenizer.flush() == ""


def test_every_cut_of_a_mixed_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"<|im_start|>{EMOJI}<tool_call>\n\r\n\x00", parse_special=True)
    for cut in range(len(ids) + 1):
        assert portions_text(tokenizer, [ids[:cut], ids[cut:]], skip=False) == tokenizer.decode(ids, False)


def test_an_open_character_becomes_a_replacement_at_the_end(tokenizer: Tokenizer) -> None:
    first = tokenizer.encode("🙂", parse_special=False)
    part = next(i for i in range(256) if tokenizer.token_bytes(i) == b"\xf0")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.feed([*first, part]) == "🙂"
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_control_tokens_are_printed_only_on_request(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|im_end|><tool_call>", parse_special=True)
    assert portions_text(tokenizer, [ids], skip=True) == "a<tool_call>"
    assert portions_text(tokenizer, [ids], skip=False) == "a<|im_end|><tool_call>"
