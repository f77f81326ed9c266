"""The promise and the bounds where interactive requests go ahead: random mixes with long ones, over tiny pools."""

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine.plan import StepPlan
from engine.scheduler.turns import AHEAD_SHARE
from tests.property import test_bookkeeping, test_prefix_reuse
from tests.property.test_bookkeeping import Driver, Workload
from tests.support.hash_model import fail_on_steps


class FairDriver(Driver):
    """Holds every step against the bounds as well."""

    def schedule(self) -> StepPlan | None:
        self.before = set(self.scheduler.running)
        plan = super().schedule()
        limits, running = self.workload.limits, self.scheduler.running
        num_ahead = min(max(1, limits.num_slots // AHEAD_SHARE), sum(s.request.interactive for s in running))
        assert len(running) <= limits.num_slots + num_ahead
        assert len(running) <= limits.num_slots or limits.num_checkpoints
        if limits.max_running_per_key is not None:
            owners = [s.request.owner for s in running]
            assert all(owners.count(owner) <= limits.max_running_per_key for owner in owners)
        return plan

    def check_plan(self, plan: StepPlan) -> None:
        super().check_plan(plan)
        sequences = {s.seq_id: s for s in self.scheduler.running}
        prompts = [(sequences[s.seq_id], len(s.token_ids)) for s in plan.sequences if len(s.token_ids) > 1]
        # Those that are admitted in this step may have been next in line, and take what others have.
        ahead = sum(n for s, n in prompts if s.request.interactive and s in self.before)
        readers = [s for s in self.scheduler.running if not s.request.interactive and s.num_uncomputed_tokens > 1]
        is_alone = any(s.suspect for s in self.scheduler.running)
        if ahead > 3 and readers and not is_alone:
            others = sum(len(s.token_ids) for s in plan.sequences if sequences[s.seq_id] in readers)
            wanted = sum(s.num_uncomputed_tokens for s in readers)
            assert others >= min(wanted, ahead // 3), "the others got less than a quarter"


@st.composite
def mixed(draw: st.DrawFn, workloads: st.SearchStrategy[Workload]) -> Workload:
    """Some of its requests are interactive, and short; all have one of two owners."""
    workload = draw(workloads)
    arrivals = []
    for arrival in workload.arrivals:
        request = replace(arrival.request, owner=draw(st.sampled_from("ab")), interactive=draw(st.booleans()))
        if request.interactive:
            request = replace(request, prompt_ids=request.prompt_ids[: draw(st.integers(1, 12))], boundaries=())
        arrivals.append(replace(arrival, request=request))
    limits = replace(
        workload.limits,
        num_checkpoints=draw(st.integers(0, 8)),
        max_running_per_key=draw(st.none() | st.integers(1, 2)),
    )
    return replace(workload, limits=limits, arrivals=tuple(arrivals))


def play(workload: Workload, *failing: int) -> FairDriver:
    driver = FairDriver(workload)
    driver.model.before_step = fail_on_steps(*failing)
    driver.run()
    driver.check_all_returned()
    driver.check_outputs()
    return driver


@settings(max_examples=200, deadline=None)
@given(mixed(test_bookkeeping.workloads()))
def test_every_request_gets_the_tokens_it_would_get_alone(workload: Workload) -> None:
    driver = play(workload)
    event("preempted" if driver.scheduler.num_preemptions else "not preempted")


@settings(max_examples=200, deadline=None)
@given(mixed(test_prefix_reuse.workloads()), st.lists(st.integers(1, 60), max_size=3))
def test_with_conversations_and_steps_that_fail(workload: Workload, failing: list[int]) -> None:
    play(workload, *failing)


@settings(max_examples=200, deadline=None)
@given(mixed(test_bookkeeping.workloads(aborts=False)))
def test_going_ahead_costs_nothing_where_there_is_memory(workload: Workload) -> None:
    """A slot is taken from what is kept, not from who runs: nothing is computed twice."""
    limits = workload.limits
    blocks_each = -(-limits.max_model_len // limits.block_size)
    roomy = replace(limits, num_blocks=(blocks_each + 4) * len(workload.arrivals) * 2)
    driver = play(replace(workload, limits=roomy))
    assert driver.scheduler.num_preemptions == 0
    # the last token that is generated is not read
    wanted = (len(s.tokens) - (not s.is_only_read) - s.num_cached_tokens for s in driver.sequences)
    assert driver.model.num_tokens == sum(wanted)
