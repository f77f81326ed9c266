"""Stop strings: nothing of a stop leaks, nothing else is lost, and portions do not matter."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat.stops import StopStrings, added_token_stops
from server.chat.tokenizer import Tokenizer


def run(stops: tuple[str, ...], portions: list[str], include_stop: bool = False) -> tuple[str, str | None]:
    watch = StopStrings(stops, include_stop)
    text = "".join([watch.feed(portion) for portion in portions])
    return text + watch.flush(), watch.matched


def expected(stops: tuple[str, ...], text: str) -> tuple[str, str | None]:
    """By the definition: the shortest beginning of the text that ends with a stop, the longest such stop."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        ((), "abc"),
        (("",), "abc"),
        (("END",), "one ENEND two"),
        (("END",), "EN"),
        (("abcd", "bc"), "xabcd"),
        (("bc", "abc"), "xabc"),
        (("aab", "aaab"), "aaaaab"),
        (("\n\n", "```", "<|im_end|>"), "code\n``\n\nrest"),
        (("é🙂", "🙂"), "aé🙂"),
    ],
)
def test_every_cut_gives_the_same(stops: tuple[str, ...], text: str) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert run(stops, [text[:first], text[first:second], text[second:]]) == expected(stops, text)
    assert run(stops, list(text)) == expected(stops, text)


@settings(deadline=None)
@given(
    stops=st.lists(st.text(alphabet="ab<", max_size=4), max_size=5).map(tuple),
    text=st.text(alphabet="ab<", max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_follows_the_definition(stops: tuple[str, ...], text: str, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(text) + 40]
    assert run(stops, [text[start:end] for start, end in pairwise(bounds)]) == expected(stops, text)


def test_holds_back_only_what_could_become_a_stop() -> None:
    watch = StopStrings(("STOP",))
    assert watch.feed("abc S") == "abc "
    assert watch.feed("T") == ""
    assert watch.feed("x") == "STx"
    assert watch.feed("ST") == ""
    assert watch.flush() == "ST"


def test_after_a_match_nothing_comes() -> None:
    watch = StopStrings(("x",))
    assert watch.feed("axb") == "a"
    assert watch.matched == "x"
    assert watch.feed("more") == ""
    assert watch.flush() == ""


def test_can_include_the_stop() -> None:
    assert run(("END",), ["one E", "ND two"], include_stop=True) == ("one END", "END")


def test_before_min_tokens_stops_are_not_seen() -> None:
    watch = StopStrings(("END",))
    assert watch.feed("END E", active=False) == "END E"
    assert watch.feed("ND ") == "ND "
    assert watch.feed("END") == ""
    assert watch.matched == "END"


def test_many_answers_with_the_same_stops() -> None:
    """Each with an automaton of its own took twelve seconds and two gigabytes."""
    stops = tuple(f"{n}" * 250 for n in range(100, 132))
    begun = time.monotonic()
    answers = [StopStrings(stops) for _ in range(1000)]
    assert time.monotonic() - begun < 1
    answers[0].feed("100")
    assert [answer.feed("x") for answer in answers[1:]] == ["x"] * 999


def test_many_long_stops() -> None:
    stops = tuple("a" * length + "b" for length in range(1, 33))
    assert run(stops, ["a" * 1000, "b"]) == ("a" * (1000 - 32), "a" * 32 + "b")


def test_finds_stops_that_are_tokens(tokenizer: Tokenizer) -> None:
    stops = ("<|im_end|>", "<|fim_prefix|>", "\n\n", "hello", "<|fim_prefix|>x", "")
    assert added_token_stops(stops, tokenizer) == {151645: "<|im_end|>", 151659: "<|fim_prefix|>"}
