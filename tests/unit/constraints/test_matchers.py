"""Matchers: which tokens may come, for whole answers and for stretches of them, and what is wrong with grammars."""

import threading
from collections.abc import Iterable

import pytest

from engine.constraints import constraints as module
from engine.constraints.constraints import Constraints
from engine.constraints.matcher import ConstraintFailed, Mask
from engine.errors import RequestError
from engine.types import Constraint, Vocabulary
from tests.support.grammar_walks import EOS, TOKENS, vocabulary

ABC = Constraint('start: "a" ("b" | "c")+ "d"\n')
CALL = Constraint('start: "<function=" ("read" | "write") ">"\n', r"\n(?P<held><function(?P<rest>=?)\S*)\Z")


def ids(text: str | bytes) -> list[int]:
    """Byte by byte."""
    return [TOKENS.index(bytes([byte]), 1) for byte in (text.encode() if isinstance(text, str) else text)]


def allowed(mask: Mask | None) -> set[bytes] | None:
    if mask is None:
        return None
    return {TOKENS[i] for i in range(len(TOKENS)) if mask.bits[i // 8] >> i % 8 & 1}


@pytest.fixture
def constraints() -> Constraints:
    return Constraints(vocabulary, (EOS,))


class Followed:
    """One sequence, with what it has generated."""

    def __init__(self, constraints: Constraints, constraint: Constraint, prompt: Iterable[int] = (1, 2, 3)) -> None:
        self.constraints = constraints
        self.prompt = list(prompt)
        self.tokens = list(self.prompt)
        constraints.open(7, constraint)

    def after(self, text: str | list[int]) -> set[bytes] | None:
        """What may come once this was generated too."""
        self.tokens += ids(text) if isinstance(text, str) else text
        self.constraints.begin_mask(7, self.tokens, len(self.prompt))
        return allowed(self.constraints.mask(7))


def test_an_answer_is_held_from_its_first_token_to_its_end(constraints: Constraints) -> None:
    followed = Followed(constraints, ABC)
    assert followed.after("") == {b"a"}
    assert followed.after("a") == {b"b", b"c"}
    assert followed.after("bc") == {b"b", b"c", b"d"}
    assert followed.after("d") == {TOKENS[EOS]}


def test_a_token_may_reach_over_parts_of_the_grammar(constraints: Constraints) -> None:
    followed = Followed(constraints, Constraint('start: ("te" | "o") ("xt" | "n")\n'))
    assert followed.after("") == {b"t", b"text", b"o"}
    assert followed.after([TOKENS.index(b"text")]) == {TOKENS[EOS]}


def test_forced_text_goes_as_the_model_would_write_it(constraints: Constraints) -> None:
    """This vocabulary's `encode` knows bytes only, though there is a token `text`."""
    assert Followed(constraints, Constraint('start: "text"\n')).after("") == {b"t"}


def test_the_same_step_again_has_the_same_mask(constraints: Constraints) -> None:
    followed = Followed(constraints, ABC)
    assert followed.after("a") == followed.after("") == followed.after("") == {b"b", b"c"}


def test_text_is_free_until_a_call_begins_and_after_it(constraints: Constraints) -> None:
    followed = Followed(constraints, CALL)
    assert followed.after("") is None
    assert followed.after("Let me call <function, said I.\nSo:\n<functio") is None
    assert followed.after("n") == {b"="}
    assert followed.after("=") == {b"r", b"w"}
    assert followed.after("w") == {b"r"}
    assert followed.after("rite") == {b">"}
    assert followed.after(">") is None
    assert followed.after(" and\n<function") == {b"="}


def test_a_call_may_begin_with_the_answer(constraints: Constraints) -> None:
    assert Followed(constraints, CALL).after("<function") == {b"="}


def test_what_a_token_brings_beside_the_opening_counts(constraints: Constraints) -> None:
    """Its tokens begin where the held part begins, and one of them may already be part of a name."""
    followed = Followed(constraints, CALL)
    assert followed.after([*ids("So\n"), TOKENS.index(b"<function="), *ids("rea")]) == {b"d"}


def test_an_opening_inside_a_token_is_left_free(constraints: Constraints) -> None:
    tokens = [b"<end>", b"a\n<function", b"="]
    known = Constraints(lambda: Vocabulary(tokens, [0], lambda text: []), (0,))
    known.open(1, CALL)
    known.begin_mask(1, [1], 0)
    assert known.mask(1) is None


def test_a_call_of_what_nobody_offered_is_left_free(constraints: Constraints) -> None:
    followed = Followed(constraints, CALL)
    assert followed.after([*ids("\n"), TOKENS.index(b"<function=")]) is not None
    other = Constraint('start: "<function=" "read" ">"\n', r"\n(?P<held><function=x\S*)\Z")
    assert Followed(constraints, other).after("\n<function=x") is None


def test_far_behind_the_beginning_no_line_starts_by_itself(constraints: Constraints) -> None:
    """What lies so far back that it was let go of is not taken for the answer's beginning."""
    followed = Followed(constraints, CALL)
    assert followed.after("x" * 2000 + "<function") is None
    assert followed.after("\n<function") == {b"="}


def test_tokens_that_do_not_fit_are_an_error(constraints: Constraints) -> None:
    followed = Followed(constraints, ABC)
    with pytest.raises(ConstraintFailed):
        followed.after("x")
    with pytest.raises(ConstraintFailed):
        followed.after("a")


def test_control_tokens_are_in_no_text(constraints: Constraints) -> None:
    found = Followed(constraints, Constraint("start: /(?s:.*)/\n")).after("")
    assert found is not None
    assert len(found) > 200
    assert TOKENS[EOS] in found
    end_alone = Followed(constraints, Constraint("start: /(?s:.+)/\n")).after("")
    assert end_alone is not None
    assert TOKENS[EOS] not in end_alone


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("start: x y\n", "x"),
        ("no grammar", ""),
        ("start: /[0-9/\n", "unclosed character class"),
        ('start: %json {"type": "array", "uniqueItems": true}\n', "uniqueItems"),
        ("start: " + '"a" ' * 300_000, "longer than"),
        ('start: "\ud800"\n', "surrogate"),
    ],
)
def test_what_is_no_grammar(grammar: str, says: str, constraints: Constraints) -> None:
    with pytest.raises(RequestError) as caught:
        constraints.compile(Constraint(grammar))
    assert says in caught.value.message
    assert " | " not in caught.value.message  # a listing of the grammar


def test_grammars_are_compiled_once(constraints: Constraints, monkeypatch: pytest.MonkeyPatch) -> None:
    first = constraints.compile(ABC)
    assert constraints.compile(Constraint(ABC.grammar, "x")) is first
    monkeypatch.setattr(module, "MOST_COMPILED_CHARACTERS", 2 * len(ABC.grammar))
    for letter in "xyz":
        constraints.compile(Constraint(ABC.grammar.replace('"a"', f'"{letter}"')))
    assert constraints.compile(ABC) is not first


def test_the_vocabulary_is_read_once_and_late() -> None:
    reads = []

    def read() -> Vocabulary:
        reads.append(1)
        return vocabulary()

    constraints = Constraints(read, (EOS,))
    assert not reads
    threads = [threading.Thread(target=constraints.compile, args=(ABC,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_all_but_values_may_be_drawn_greedily(constraints: Constraints) -> None:
    grammar = 'start: call call\ncall: "<p=x>\\n" /[a-z\\n]*<\\/p>/\n'
    values = (r"<p=[^>\n]*>\n", "\n</p>")
    text = "<p=x>\nab\ncd\n</p><p=x>\n\n</p>"
    greedy = []
    constraints.open(7, Constraint(grammar, None, values))
    for end in range(len(text) + 1):
        constraints.begin_mask(7, ids(text[:end]), 0)
        mask = constraints.mask(7)
        assert mask is not None
        greedy.append(mask.is_greedy)
    in_value = "".join("." if is_greedy else "v" for is_greedy in greedy)
    assert in_value == "......vvvvvvvvvv......vvvvv."
    constraints.open(7, Constraint(grammar))
    constraints.begin_mask(7, [], 0)
    plain = constraints.mask(7)
    assert plain is not None
    assert not plain.is_greedy
