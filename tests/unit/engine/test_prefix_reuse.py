"""What is read again, and what is not, in each shape that agents send. The tokens are those of a request alone."""

from dataclasses import dataclass, field

import pytest

from engine.cache.explanation import MAX_SEQUENCES
from engine.plan import StateAction
from engine.scheduler.sequence import NEAR_TOKENS, SPARSE_TOKENS, Sequence
from engine.types import (
    CacheReport,
    CacheTier,
    ErrorReason,
    FinishReason,
    GenerationRequest,
    MissReason,
    SamplingParams,
)
from tests.support.engine_runs import Run, fixed_length, limits, prompt
from tests.support.hash_model import fail_on_steps

ANSWER = 10


def message(start: int, num_tokens: int = 40) -> tuple[int, ...]:
    return prompt(num_tokens, start)


@dataclass
class Conversation:
    """Messages one after the other, and where each ends."""

    tokens: tuple[int, ...] = ()
    boundaries: tuple[int, ...] = ()

    def and_then(self, *messages: tuple[int, ...]) -> "Conversation":
        tokens, boundaries = self.tokens, self.boundaries
        for added in messages:
            tokens += added
            boundaries += (len(tokens),)
        return Conversation(tokens, boundaries)


@dataclass
class Agent:
    """Asks a run, and counts."""

    run: Run
    salt: str = ""
    session: str | None = None
    asked: list[Sequence] = field(default_factory=list)

    def ask(self, conversation: Conversation, num_tokens: int = ANSWER) -> Sequence:
        sequence = self.run.add(
            conversation.tokens,
            fixed_length(num_tokens),
            boundaries=conversation.boundaries,
            salt=self.salt,
            session=self.session,
        )
        self.asked.append(sequence)
        return sequence

    def answer(self, conversation: Conversation, num_tokens: int = ANSWER) -> tuple[int, Conversation]:
        """Tokens computed for a turn, and the conversation with its answer."""
        before = self.run.model.num_tokens
        sequence = self.ask(conversation, num_tokens)
        self.run.finish()
        self.run.assert_as_alone([sequence])
        computed = self.run.model.num_tokens - before
        assert computed == len(sequence.tokens) - 1 - sequence.num_cached_tokens
        return computed, conversation.and_then(tuple(sequence.tokens[len(conversation.tokens) :]))


def roomy(**sizes: int) -> Run:
    return Run(limits(**{"num_blocks": 3000, "num_slots": 8, "max_model_len": 2000, "num_checkpoints": 40} | sizes))


SYSTEM = Conversation().and_then(message(1, 100))


def test_a_growing_conversation_computes_only_what_is_new() -> None:
    agent = Agent(roomy())
    computed, conversation = agent.answer(SYSTEM.and_then(message(2)))
    assert computed == 140 + ANSWER - 1
    for turn in range(3, 20):
        computed, conversation = agent.answer(conversation.and_then(message(turn)))
        assert computed == 1 + 40 + ANSWER - 1  # the answer's last token was drawn, but not computed


@pytest.mark.parametrize("block_size", [1, 4, 7, 64])
def test_a_hit_may_end_anywhere_in_a_block(block_size: int) -> None:
    agent = Agent(roomy(block_size=block_size, num_checkpoints=100))
    for num_tokens in (1, 3, 5, 64, 65):
        conversation = Conversation().and_then(message(num_tokens, 50), message(2, num_tokens))
        agent.answer(conversation)
        computed, _ = agent.answer(conversation.and_then(message(3)))
        assert computed == 40 + ANSWER - 1
        computed, _ = agent.answer(Conversation(conversation.tokens[:50], (50,)).and_then(message(4)))
        assert computed == 40 + ANSWER - 1


def test_after_an_edit_what_follows_the_last_common_boundary_is_computed() -> None:
    agent = Agent(roomy())
    turns = [message(i) for i in range(2, 7)]
    agent.answer(SYSTEM.and_then(*turns))
    edited = (*turns[2][:20], 1, 2, 3)
    computed, _ = agent.answer(SYSTEM.and_then(*turns[:2], edited, *turns[3:]))
    assert computed == 23 + 2 * 40 + ANSWER - 1


def test_a_retry_computes_at_most_a_few_tokens() -> None:
    run, conversation = roomy(), SYSTEM.and_then(message(2))
    tokens = (*conversation.tokens, 1, 2, 3)  # as when a template begins the answer
    for cached in (0, len(conversation.tokens)):
        sequence = run.add(tokens, fixed_length(ANSWER), boundaries=conversation.boundaries)
        run.finish()
        run.assert_as_alone([sequence])
        assert sequence.num_cached_tokens == cached
    without = [run.add(prompt(500, 9), fixed_length(1)) for _ in range(2)]
    run.finish()
    assert [s.num_cached_tokens for s in without] == [0, 499]


def test_requests_with_a_new_prefix_in_common_compute_it_once() -> None:
    run = roomy(max_num_batched_tokens=64)
    agent = Agent(run)
    repository = SYSTEM.and_then(message(2, 500))
    sequences = [agent.ask(repository.and_then(message(10 + i))) for i in range(10)]
    run.finish()
    run.assert_as_alone(sequences)
    assert run.model.num_tokens == 600 + 10 * (40 + ANSWER - 1)


def test_who_waits_for_a_prefix_does_not_hold_up_others() -> None:
    run = roomy(max_num_batched_tokens=64)
    agent = Agent(run)
    first, second = (agent.ask(SYSTEM.and_then(message(2, 490), message(i))) for i in (3, 4))
    other = agent.ask(Conversation().and_then(message(5)))
    while other.allocation is None:
        run.step()
    assert first.num_computed_tokens > 0
    assert second.allocation is None
    run.finish()
    run.assert_as_alone([first, second, other])


@pytest.mark.parametrize("abort_at", [1, 3, 6])
def test_who_waits_for_a_prefix_computes_the_rest_when_its_owner_leaves(abort_at: int) -> None:
    run = roomy(max_num_batched_tokens=64)
    agent = Agent(run)
    first, second = (agent.ask(SYSTEM.and_then(message(2, 300), message(i))) for i in (3, 4))
    for _ in range(abort_at):
        run.step()
    run.abort(first)
    run.finish()
    run.assert_as_alone([second])
    assert second.num_cached_tokens == min(64 * abort_at, 400)  # what was done is kept, wherever it had come to


def test_answers_to_one_prompt_share_it() -> None:
    run = roomy()
    tokens = SYSTEM.and_then(message(2)).tokens
    sequences = [run.add(tokens, SamplingParams(max_tokens=5), choice=i, boundaries=(100, 137)) for i in range(6)]
    run.finish()
    run.assert_as_alone(sequences)
    assert [s.num_cached_tokens for s in sequences] == [0] + [137] * 5


def test_an_abandoned_prompt_is_continued() -> None:
    run = roomy(max_num_batched_tokens=64)
    agent = Agent(run)
    long = Conversation().and_then(message(2, 1000))
    first = agent.ask(long)
    for _ in range(5):
        run.step()
    run.abort(first)
    second = agent.ask(long)
    run.finish()
    run.assert_as_alone([second])
    assert second.num_cached_tokens == 5 * 64


def test_salts_share_nothing() -> None:
    run = roomy()
    for salt in ("a", "b", "a"):
        Agent(run, salt).answer(SYSTEM)
    first, second, third = (Agent(run, salt).ask(SYSTEM.and_then(message(5))) for salt in ("a", "b", "c"))
    run.finish()
    assert (first.num_cached_tokens, second.num_cached_tokens, third.num_cached_tokens) == (100, 100, 0)


def test_a_preempted_sequence_goes_on_from_its_own_state() -> None:
    run = Run(limits(num_blocks=28, num_slots=2, num_checkpoints=4, max_model_len=90))
    sequences = [run.add(prompt(30, i), fixed_length(40)) for i in range(2)]
    run.finish()
    run.assert_as_alone(sequences)
    assert run.scheduler.num_preemptions
    assert any(s.state is StateAction.RESTORE for plan in run.model.plans for s in plan.sequences)


def test_a_failed_step_leaves_nothing_behind() -> None:
    run = Run(
        limits(num_blocks=600, max_model_len=2000, num_checkpoints=10, max_num_batched_tokens=64),
        before_step=fail_on_steps(3),
    )
    agent = Agent(run)
    first, second = agent.ask(SYSTEM.and_then(message(2))), agent.ask(Conversation().and_then(message(3, 90)))
    run.finish()
    run.assert_as_alone([first, second])
    computed, _ = agent.answer(SYSTEM.and_then(message(2), message(4)))
    assert computed == 40 + ANSWER - 1


# --- what is kept ---------------------------------------------------------------------------------------------------


def positions(num_tokens: int, boundaries: tuple[int, ...]) -> tuple[int, ...]:
    run = Run(limits(num_blocks=10_000, block_size=16, max_model_len=100_000))
    return run.add(prompt(num_tokens), boundaries=boundaries).checkpoint_positions


def test_checkpoints_stand_at_boundaries_and_before_the_end() -> None:
    assert positions(100, (20, 60, 97)) == (20, 60, 97)
    assert positions(100, (20, 60)) == (20, 60, 99)
    assert positions(60 + NEAR_TOKENS + 1, (60,)) == (60,)
    assert positions(100, (0, 60, 60, 100, 300)) == (60, 99, 100)
    assert positions(100, (80, 100)) == (80, 100)
    assert positions(1, ()) == ()


def test_long_messages_have_some_inside() -> None:
    assert positions(3 * SPARSE_TOKENS, (100, SPARSE_TOKENS + 100)) == (
        100, SPARSE_TOKENS + 100, 2 * SPARSE_TOKENS + 100, 3 * SPARSE_TOKENS - 1,
    )  # fmt: skip


def test_side_requests_do_not_end_a_live_conversation() -> None:
    run = roomy(num_checkpoints=4, num_slots=2)
    agent, others = Agent(run), Agent(run)
    _, conversation = agent.answer(SYSTEM.and_then(message(2)))
    _, conversation = agent.answer(conversation.and_then(message(3)))
    for i in range(20):
        run.now += 10.0
        others.answer(Conversation().and_then(message(50 + i), message(80 + i)))
    computed, _ = agent.answer(conversation.and_then(message(4)))
    assert computed == 1 + 40 + ANSWER - 1


def test_old_conversations_go_before_the_short_answers_of_a_live_one() -> None:
    run = roomy(num_checkpoints=16, num_slots=2)
    others = Agent(run)
    for i in range(6):
        conversation = Conversation().and_then(message(50 + i, 200))
        for turn in range(3):
            _, conversation = others.answer(conversation.and_then(message(60 + 10 * i + turn, 200)))
        run.now += 60.0
    agent, conversation = Agent(run), SYSTEM
    for turn in range(10):
        computed, conversation = agent.answer(conversation.and_then(message(200 + turn)), num_tokens=2)
        assert computed == (140 if not turn else 1 + 40) + 1
        run.now += 20.0
    assert run.cache.num_evictions


def test_a_named_session_is_protected_from_its_first_turn_on() -> None:
    run = roomy(num_checkpoints=4, num_slots=2)
    agent, others = Agent(run, session="s"), Agent(run)
    _, conversation = agent.answer(SYSTEM.and_then(message(2)))
    for i in range(20):
        others.answer(Conversation().and_then(message(50 + i), message(80 + i)))
    computed, _ = agent.answer(conversation.and_then(message(4)))
    assert computed == 1 + 40 + ANSWER - 1


def test_who_runs_goes_before_what_is_kept() -> None:
    run = Run(limits(num_blocks=30, num_slots=2, num_checkpoints=8, max_model_len=120))
    agent = Agent(run)
    for i in range(5):
        agent.answer(Conversation().and_then(message(i), message(i + 10)))
    sequence = run.add(prompt(100, 77), fixed_length(19))
    run.finish()
    run.assert_as_alone([sequence])
    assert sequence.num_preemptions == 0
    assert run.cache.num_evictions


def test_without_room_for_checkpoints_nothing_is_kept() -> None:
    agent = Agent(Run(limits(num_checkpoints=0, num_blocks=600, max_model_len=2000)))
    _, conversation = agent.answer(SYSTEM)
    computed, _ = agent.answer(conversation.and_then(message(2)))
    assert computed == 100 + ANSWER + 40 + ANSWER - 1


def test_clearing_forgets_everything_nobody_uses() -> None:
    run = roomy()
    agent = Agent(run)
    agent.answer(SYSTEM.and_then(message(2)))
    assert run.cache.forget(lambda salt: salt != "") == 0
    assert run.cache.forget(lambda salt: salt == "") == 4
    assert run.cache.num_checkpoints_kept == 0
    computed, _ = agent.answer(SYSTEM.and_then(message(2)))
    assert computed == 140 + ANSWER - 1
    run.scheduler.check()


def test_an_answer_that_failed_keeps_no_state() -> None:
    run = roomy()
    run.model.sequence_error = lambda scheduled: "unusable"
    sequence = run.add(*_plain(SYSTEM))
    run.finish()
    assert run.answer(sequence)[1] is FinishReason.ERROR
    assert run.cache.num_checkpoints_kept == 0


@pytest.mark.parametrize("reason", [ErrorReason.NOT_FINITE, ErrorReason.CONSTRAINT])
def test_after_logits_that_are_not_finite_nothing_starts_from_what_led_to_them(reason: ErrorReason) -> None:
    run = roomy()
    agent = Agent(run)
    _, answered = agent.answer(SYSTEM.and_then(message(2)))
    agent.answer(SYSTEM.and_then(message(3)))
    agent.answer(Conversation().and_then(message(4)))
    kept = {checkpoint.position for checkpoint in run.cache.checkpoints}
    going_on = answered.and_then(message(5))
    agent.ask(going_on)
    run.model.sequence_error, run.model.error_reason = lambda scheduled: "unusable", reason
    run.finish()
    run.model.sequence_error = lambda scheduled: None
    left = list(run.cache.checkpoints)
    if reason is ErrorReason.NOT_FINITE:
        assert left
        assert not any(checkpoint.is_prefix_of(agent.asked[-1].lineage) for checkpoint in left)
        computed, _ = agent.answer(going_on)
        assert computed == len(going_on.tokens) + ANSWER - 1
    else:
        assert kept <= {checkpoint.position for checkpoint in left}


def _plain(conversation: Conversation) -> tuple[tuple[int, ...], SamplingParams]:
    request = GenerationRequest("r", conversation.tokens, fixed_length(ANSWER))
    return request.prompt_ids, request.sampling


# --- why a hit is not longer ----------------------------------------------------------------------------------------


def report(run: Run, conversation: Conversation, salt: str = "me/") -> CacheReport:
    sequence = Agent(run, salt).ask(conversation)
    run.finish()
    assert sequence.cache_report is not None
    return sequence.cache_report


def test_reasons() -> None:
    run = roomy()
    first = SYSTEM.and_then(message(2))
    assert report(run, first) == CacheReport(0, 0, MissReason.NEW)
    assert report(run, first) == CacheReport(139, 140, MissReason.NONE, CacheTier.MEMORY)
    edited = SYSTEM.and_then((*message(2)[:30], 1, 2))
    assert report(run, edited) == CacheReport(100, 130, MissReason.DIFFERS, CacheTier.MEMORY)
    assert report(run, first, "me/x") == CacheReport(0, 0, MissReason.SALT)
    assert report(run, first, "you/") == CacheReport(0, 0, MissReason.NEW)
    run.cache.forget(lambda salt: True)
    assert report(run, first) == CacheReport(0, 140, MissReason.GONE)


def test_the_report_outlives_a_preemption() -> None:
    run = Run(limits(num_blocks=28, num_slots=2, num_checkpoints=4, max_model_len=90))
    sequences = [run.add(prompt(30, i), fixed_length(40)) for i in range(2)]
    run.finish()
    assert run.scheduler.num_preemptions
    assert [s.cache_report for s in sequences] == [CacheReport(0, 0, MissReason.NEW)] * 2


def test_what_is_remembered_for_reports_is_bounded() -> None:
    run = roomy(num_checkpoints=0)
    for i in range(MAX_SEQUENCES + 5):
        report(run, Conversation().and_then(message(i, 20)))
    assert report(run, Conversation().and_then(message(0, 20))).num_known_tokens < 10
    assert report(run, Conversation().and_then(message(MAX_SEQUENCES, 20))).miss is MissReason.GONE


def test_the_state_before_an_answer_in_the_making_outlives_others_inside() -> None:
    """Clients that send answers back as others go on from there, in a full cache too."""
    run = roomy(num_checkpoints=18)
    agents, conversations = [Agent(run) for _ in range(3)], [SYSTEM.and_then(message(50 + i)) for i in range(3)]
    for turn in range(12):
        before = run.model.num_tokens
        sequences = [agent.ask(c) for agent, c in zip(agents, conversations, strict=True)]
        run.finish()
        run.assert_as_alone(sequences)
        if turn:
            assert run.model.num_tokens - before <= 3 * (1 + 40 + 40 + ANSWER - 1)
        rewritten = [message(1000 + 10 * turn + i) for i in range(3)]
        conversations = [c.and_then(r, message(2000 + turn)) for c, r in zip(conversations, rewritten, strict=True)]
