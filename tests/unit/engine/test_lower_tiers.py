"""What goes to lower tiers and comes back, also after a restart. Tokens are those of a request alone."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.cache.lower_tier import SETTLE_SECONDS, LowerTier
from engine.errors import InvariantViolation
from engine.scheduler.sequence import Sequence
from engine.types import CacheTier, ErrorReason
from tests.support.engine_runs import Run, fixed_length, limits, prompt
from tests.support.hash_files import HashFiles, Tidier

ANSWER = 10
SYSTEM = prompt(100, 1)


@dataclass
class Server:
    """Processes over one disk: `restart` leaves nothing but its files."""

    sizes: dict[str, int] = field(default_factory=dict)
    files: HashFiles = field(init=False)

    def __post_init__(self) -> None:
        self.run = self._run()
        self.files = HashFiles(self.run.model)
        self._start()

    def _run(self) -> Run:
        usual = {"num_blocks": 300, "num_slots": 8, "max_model_len": 1000, "num_checkpoints": 20}
        return Run(limits(**usual | {"max_disk_bytes": 10**6} | self.sizes))

    def _start(self) -> None:
        self.disk.know(self.files.known())
        self.tidier = Tidier(self.disk, self.files)
        self.host_tidier: Tidier | None = None
        if CacheTier.HOST in self.run.core.lower:
            self.host_tidier = Tidier(self.run.core.lower[CacheTier.HOST], HashFiles(self.run.model))

    @property
    def disk(self) -> LowerTier:
        return self.run.core.lower[CacheTier.DISK]

    def restart(self) -> None:
        self.run = self._run()
        self.files.model = self.run.model
        self._start()

    def settle(self) -> None:
        """Time passes, and what is due is written."""
        self.run.now += 2 * SETTLE_SECONDS
        self.tidier.save_all()
        if self.host_tidier is not None:
            self.host_tidier.save_all()
        self.run.scheduler.check()

    def ask(self, tokens: tuple[int, ...], boundaries: tuple[int, ...] = (), **more: Any) -> Sequence:
        return self.run.add(tokens, fixed_length(ANSWER), boundaries=boundaries, **more)

    def finish(self) -> None:
        while self.run.scheduler.has_work:
            assert self.run.step() is not None or self.load_one()

    def load_one(self) -> bool:
        """Whether somebody waited for a state."""
        return self.tidier.load_one() or (self.host_tidier is not None and self.host_tidier.load_one())

    def answer(self, tokens: tuple[int, ...], boundaries: tuple[int, ...] = (), **more: Any) -> Sequence:
        sequence = self.ask(tokens, boundaries, **more)
        self.finish()
        self.run.assert_as_alone([sequence])
        return sequence


def where(sequence: Sequence) -> tuple[int, CacheTier | None]:
    assert sequence.cache_report is not None
    return sequence.cache_report.num_cached_tokens, sequence.cache_report.tier


def test_a_conversation_goes_on_after_a_restart() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.restart()
    second = server.answer((*first.tokens, *prompt(20, 2)))
    assert where(second) == (109, CacheTier.DISK)  # the answer's last token was drawn, but not computed
    assert server.run.model.num_tokens == len(second.tokens) - 1 - 109
    third = server.answer((*second.tokens, *prompt(20, 3)))
    assert where(third) == (len(second.tokens) - 1, CacheTier.MEMORY)


def test_after_logits_that_are_not_finite_the_disk_forgets_what_led_to_them() -> None:
    server = Server()
    first, other = server.answer(SYSTEM), server.answer(prompt(60, 7))
    server.settle()
    assert len(server.disk) == 2
    server.ask((*first.tokens, *prompt(20, 2)))
    server.run.model.sequence_error = lambda scheduled: "unusable"
    server.run.model.error_reason = ErrorReason.NOT_FINITE
    server.finish()
    server.run.model.sequence_error = lambda scheduled: None
    assert [filed.position for filed in server.disk.filed] == [len(other.tokens) - 1]
    server.settle()
    server.restart()
    assert where(server.answer((*first.tokens, *prompt(20, 2)))) == (0, None)
    assert where(server.answer((*other.tokens, 1))) == (len(other.tokens) - 1, CacheTier.DISK)


def test_a_block_is_written_once() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    assert len(server.files.blocks) == 109 // 4
    server.answer((*first.tokens, *prompt(20, 2)))
    server.run.now += 2 * SETTLE_SECONDS
    server.tidier.begin_save()
    save = server.tidier.save
    assert save is not None
    assert len(save.transfer.blocks) == 139 // 4 - 109 // 4
    server.tidier.end_save()


def test_blocks_in_memory_are_not_read_again() -> None:
    server = Server({"num_checkpoints": 3})
    first = server.answer(SYSTEM)
    server.settle()
    second = server.answer((*first.tokens, *prompt(40, 2)))
    server.settle()
    server.restart()
    server.answer((*first.tokens, *prompt(20, 3)))
    again = server.ask((*second.tokens, 1))
    assert server.run.step() is None
    [load] = server.disk.take_loads()
    assert load.arrival.num_shared_blocks == 109 // 4
    assert len(load.transfer.blocks) == 159 // 4 - 109 // 4
    server.tidier.loads.append(load)
    server.finish()
    server.run.assert_as_alone([again])
    assert where(again) == (159, CacheTier.DISK)


def test_what_goes_on_at_once_is_not_written() -> None:
    """The state before the answer is a step on the way; only the answer's end is where others go on."""
    server = Server()
    server.answer(SYSTEM)
    server.settle()
    assert [filed.position for filed in server.disk.filed] == [109]


def test_a_turn_that_was_followed_at_once_is_not_written() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    second = server.answer((*first.tokens, *prompt(20, 2)))
    server.settle()
    assert [filed.position for filed in server.disk.filed] == [len(second.tokens) - 1]


def test_a_state_much_beyond_what_is_on_disk_is_written() -> None:
    """Of the ends of messages after 550, 560 and 1,100 tokens the second saves too little beyond the first."""
    server = Server({"max_model_len": 1190})
    messages = (*prompt(550, 1), *prompt(10, 2), *prompt(540, 3), *prompt(40, 4))
    server.answer(messages, (550, 560, 1100))
    server.settle()
    assert sorted(filed.position for filed in server.disk.filed) == [550, 1100, 1149]
    server.restart()
    assert where(server.answer((*messages[:1100], *prompt(30, 5)), (550, 560, 1100))) == (1100, CacheTier.DISK)


def test_of_two_states_side_by_side_one_is_written() -> None:
    """One before the prompt's end and one a single token later: of 600 tokens they save the same, but for one."""
    server = Server()
    server.run.add(prompt(600, 1), fixed_length(1))
    server.run.add(prompt(600, 1)[:-20], fixed_length(1))
    server.finish()
    server.settle()
    assert len([filed for filed in server.disk.filed if filed.position > 590]) == 1


def test_what_was_aborted_goes_on_after_a_restart() -> None:
    server = Server({"max_num_batched_tokens": 40})
    sequence = server.ask(prompt(300, 1))
    for _ in range(4):
        server.run.step()
    server.run.abort(sequence)
    server.settle()
    server.restart()
    assert where(server.answer(prompt(300, 1))) == (160, CacheTier.DISK)


def test_the_oldest_goes_when_the_disk_is_full() -> None:
    server = Server({"max_disk_bytes": 6000})  # two conversations of about 2,600 bytes with their blocks
    for start in range(5):
        last = server.answer(prompt(80, 10 + start))
        server.settle()
        assert server.disk.num_bytes <= 6000
    assert server.disk.num_evictions == 3
    assert len(server.files.states) == 2
    assert {key for state, _, _ in server.files.states.values() for key in state.keys[1:]} == set(server.files.blocks)
    server.restart()
    assert where(server.answer((*last.tokens, 1))) == (89, CacheTier.DISK)


def test_what_is_larger_than_the_disk_is_not_written() -> None:
    server = Server({"max_disk_bytes": 900})
    server.answer(SYSTEM)
    server.settle()
    assert (len(server.disk), server.disk.num_bytes, server.files.blocks) == (0, 0, {})
    assert server.disk.next_save() is None


def test_a_smaller_disk_after_a_restart() -> None:
    server = Server()
    for start in range(4):
        server.answer(prompt(80, 10 + start))
        server.settle()
    server.sizes = {"max_disk_bytes": 6000}
    server.restart()
    assert server.disk.num_bytes <= 6000
    server.settle()
    assert len(server.files.states) == len(server.disk) == 2


def test_a_damaged_block_takes_all_with_it_that_have_it() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.answer((*first.tokens, *prompt(20, 2)))
    server.answer(prompt(50, 7))
    server.settle()
    server.restart()
    shared = next(filed for filed in server.disk.filed if filed.position == 109).file.keys[3]
    server.files.damaged.add(shared)
    assert where(server.answer((*first.tokens, *prompt(30, 3)))) == (0, None)
    assert [filed.position for filed in server.disk.filed] == [59]
    server.settle()
    assert shared in server.files.blocks  # it was computed again, and written
    assert not server.files.damaged


def test_a_damaged_state_goes_alone() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    second = server.answer((*first.tokens, *prompt(20, 2)))
    server.settle()
    server.restart()
    [name] = [filed.file.name for filed in server.disk.filed if filed.position == 139]
    server.files.damaged.add(name)
    assert where(server.answer((*second.tokens, 1, 2))) == (0, None)  # one try, and then it is computed
    assert [filed.position for filed in server.disk.filed] == [109]


def test_what_memory_lost_while_it_was_written_is_not_published() -> None:
    server = Server()
    server.answer(SYSTEM)
    server.run.now += 2 * SETTLE_SECONDS
    server.tidier.begin_save()
    server.run.cache.forget(lambda salt: True)
    server.tidier.end_save()
    server.settle()
    assert (len(server.disk), server.files.states, server.files.blocks) == (0, {}, {})


def test_what_is_forgotten_goes_from_disk_too() -> None:
    server = Server()
    server.answer(SYSTEM, salt="me/")
    server.answer(SYSTEM, salt="you/")
    server.settle()
    assert server.disk.forget(lambda salt: salt == "me/") == 1
    server.settle()
    server.restart()
    assert where(server.answer(SYSTEM, salt="me/")) == (0, None)
    assert where(server.answer((*SYSTEM, *prompt(20, 2)), salt="you/"))[1] is None  # its end is not a prefix of this
    assert len(server.files.states) == 1


def test_forgetting_ends_a_save_and_a_load() -> None:
    server = Server()
    server.answer(SYSTEM)
    server.run.now += 2 * SETTLE_SECONDS
    server.tidier.begin_save()
    server.disk.forget(lambda salt: True)
    server.tidier.end_save()
    server.settle()
    assert len(server.disk) == 0
    server.answer(prompt(70, 5))
    server.settle()
    server.restart()
    [filed] = list(server.disk.filed)
    longer = server.ask((*filed.file.tokens, 3))
    assert server.run.step() is None
    assert longer.load is not None
    server.disk.forget(lambda salt: True)
    server.run.cache.forget(lambda salt: True)
    server.finish()
    server.run.assert_as_alone([longer])
    assert where(longer) == (0, None)


def test_several_wait_for_one_load_and_others_for_none() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.restart()
    waiting = [server.ask((*first.tokens, *prompt(20, start))) for start in range(2, 5)]
    other = server.ask(prompt(30, 9))
    plan = server.run.step()
    assert plan is not None
    assert [s.seq_id for s in plan.sequences] == [other.seq_id]
    assert len(server.disk.take_loads()) == 1
    load = waiting[0].load
    assert load is not None
    server.tidier.loads.append(load)
    server.run.abort(waiting[0])
    server.finish()
    server.run.assert_as_alone([*waiting[1:], other])
    assert [where(s) for s in waiting[1:]] == [(109, CacheTier.DISK)] * 2


def test_nothing_is_loaded_where_memory_has_no_room_for_it() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.sizes = {"num_checkpoints": 0}
    server.restart()
    assert where(server.answer((*first.tokens, 1, 2))) == (0, None)


def test_lag() -> None:
    server = Server()
    assert (server.disk.lag_seconds, server.disk.next_save_in) == (0.0, None)
    begin = server.run.now
    server.answer(SYSTEM)
    server.run.now += 0.25
    lag, wait = server.disk.lag_seconds, server.disk.next_save_in
    assert 0.25 <= lag <= server.run.now - begin
    assert wait == pytest.approx(SETTLE_SECONDS - lag)
    assert server.disk.next_save() is None
    server.answer(prompt(30, 3))
    assert server.disk.lag_seconds > lag
    server.settle()
    assert (server.disk.lag_seconds, server.disk.next_save_in) == (0.0, None)


def test_when_closing_nothing_has_to_settle() -> None:
    server = Server()
    server.answer(SYSTEM)
    assert server.disk.next_save(settled=False) is not None


def test_what_never_fits_costs_nothing_else() -> None:
    server = Server({"max_disk_bytes": 9000})
    for start in range(3):
        server.answer(prompt(80, 10 + start))
        server.settle()
    known = set(server.files.states)
    server.answer(prompt(900, 5))
    server.settle()
    assert set(server.files.states) == known
    assert server.disk.num_evictions == 0


def test_a_save_that_failed_is_tried_again() -> None:
    server = Server()
    server.answer(SYSTEM)
    server.run.now += 2 * SETTLE_SECONDS
    save = server.disk.next_save()
    assert save is not None
    server.disk.saved(save, is_published=False, is_worth_another_try=True)
    server.settle()
    assert len(server.disk) == 1


def test_what_fails_for_a_moment_stays_on_disk() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.restart()
    sequence = server.ask((*first.tokens, 1))
    assert server.run.step() is None
    [load] = server.disk.take_loads()
    server.disk.loaded(load, OSError(24, "Too many open files"))
    server.finish()
    server.run.assert_as_alone([sequence])
    assert len(server.disk) == 1


def test_who_waits_for_room_looks_again_when_there_is_some() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.sizes = {"num_blocks": 40, "max_model_len": 150}
    server.restart()
    other = server.ask(prompt(80, 9))
    server.run.step()
    later = server.ask((*first.tokens, 1, 2))
    server.run.step()
    assert later.load is None
    server.finish()
    server.run.assert_as_alone([other, later])
    assert where(later) == (109, CacheTier.DISK)


def test_a_load_leaves_room_for_those_who_run() -> None:
    server = Server()
    first = server.answer(SYSTEM)
    server.settle()
    server.sizes = {"num_blocks": 48, "max_model_len": 180}
    server.restart()
    running = server.ask(prompt(79, 9))  # twenty blocks, and soon one more
    server.run.step()
    server.ask((*first.tokens, 1))  # 28 more: just all there are
    for _ in range(8):
        server.run.step()
    assert server.run.scheduler.num_preemptions == 0
    server.finish()
    server.run.assert_as_alone([running])


def test_an_end_that_was_none_is_due_later() -> None:
    """Its longer one went; how long it has been there does not count."""
    server = Server({"num_checkpoints": 2})
    first = server.answer(SYSTEM)
    server.answer((*first.tokens, *prompt(20, 2)))
    server.settle()
    server.run.now += 1000
    server.run.cache._remove(max(server.run.cache.checkpoints, key=lambda c: c.position))
    assert server.disk.lag_seconds == 0


def test_check_sees_blocks_without_holders() -> None:
    server = Server()
    server.answer(SYSTEM)
    server.settle()
    server.disk.check()
    server.disk._num_holders[b"x"] = 1
    with pytest.raises(InvariantViolation):
        server.disk.check()


HOST = {"max_host_bytes": 10**6, "num_checkpoints": 3}


def forget_memory(server: Server) -> None:
    server.run.cache.forget(lambda salt: True)


def test_the_nearest_of_two_tiers_is_read() -> None:
    server = Server(HOST)
    first = server.answer(SYSTEM)
    server.settle()
    forget_memory(server)
    assert where(server.answer((*first.tokens, 1, 2))) == (109, CacheTier.HOST)


def test_the_longest_state_is_read_wherever_it_is() -> None:
    server = Server(HOST)
    first = server.answer(SYSTEM)
    server.settle()
    second = server.answer((*first.tokens, *prompt(20, 2)))
    server.run.now += 2 * SETTLE_SECONDS
    server.tidier.save_all()  # on disk alone
    forget_memory(server)
    third = server.answer((*second.tokens, 1, 2))
    assert where(third) == (len(second.tokens) - 1, CacheTier.DISK)


def test_what_came_from_disk_is_nearer_the_next_time() -> None:
    server = Server(HOST)
    first = server.answer(prompt(600, 1))
    server.settle()
    server.restart()
    assert where(server.answer((*first.tokens, 1, 2))) == (609, CacheTier.DISK)
    forget_memory(server)
    assert where(server.answer((*first.tokens, 3, 4))) == (609, CacheTier.DISK)  # there was no time to copy it
    server.settle()
    forget_memory(server)
    assert where(server.answer((*first.tokens, 5, 6))) == (609, CacheTier.HOST)


def test_each_tier_has_a_budget_of_its_own() -> None:
    server = Server({"max_host_bytes": 3000, "max_disk_bytes": 9000})
    answers = []
    for start in range(3):
        answers.append(server.answer(prompt(80, 10 + start)))
        server.settle()
        forget_memory(server)
    assert [len(tier) for tier in server.run.core.lower.values()] == [1, 3]
    found = [where(server.answer((*answer.tokens, 1))) for answer in answers]
    assert found == [(89, CacheTier.DISK), (89, CacheTier.DISK), (89, CacheTier.HOST)]


def test_an_end_that_was_none_goes_to_all_tiers() -> None:
    """Its longer one went before any tier had it."""
    server = Server({"max_host_bytes": 10**6, "num_checkpoints": 2})
    first = server.answer(SYSTEM)
    server.settle()
    server.answer((*first.tokens, *prompt(20, 2)))
    server.run.cache._remove(max(server.run.cache.checkpoints, key=lambda c: c.position))
    server.settle()
    for tier in server.run.core.lower.values():
        assert [filed.position for filed in tier.filed] == [109]
