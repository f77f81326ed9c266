"""The memory planner over all needs and budgets: it fits, it serves, it says what it clamped."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LoadError
from engine.runner.memory import (
    DEFAULT_NUM_SEQS,
    MAX_CHECKPOINTS,
    MIN_CHECKPOINTS,
    MemoryNeeds,
    MemoryPlan,
    plan_memory,
)

MIB, GIB = 1 << 20, 1 << 30
REAL = MemoryNeeds(
    block_bytes=64 * 24_576,
    block_size=64,
    slot_bytes=79_036_416,
    weights_bytes=159_348_782_592,
    model_max_len=262_144,
    max_model_len=None,
    max_num_seqs=None,
)

needs_of_any_size = st.builds(
    MemoryNeeds,
    block_bytes=st.integers(1, 5000),
    block_size=st.integers(1, 256),
    slot_bytes=st.integers(1, 5000),
    weights_bytes=st.integers(0, 10**6),
    model_max_len=st.integers(1, 10**5),
    max_model_len=st.none() | st.integers(1, 10**6),
    max_num_seqs=st.none() | st.integers(1, 500),
    checkpoint_bytes=st.none() | st.integers(0, 10**6),
)
budgets = st.integers(0, 10**6)


def _used(needs: MemoryNeeds, plan: MemoryPlan) -> int:
    return plan.num_blocks * needs.block_bytes + (plan.num_slots + plan.num_checkpoints) * needs.slot_bytes


def _wanted_len(needs: MemoryNeeds) -> int:
    return min(needs.max_model_len or needs.model_max_len, needs.model_max_len)


def _plan(needs: MemoryNeeds, budget: int) -> MemoryPlan | None:
    """None when it is refused, which it may be only when not even one slot and one block fit."""
    if budget >= needs.slot_bytes + needs.block_bytes:
        return plan_memory(needs, budget)
    with pytest.raises(LoadError, match=r"^[^\n]*--kv-cache-memory-bytes[^\n]*$"):
        plan_memory(needs, budget)
    return None


@given(needs_of_any_size, budgets)
def test_it_fits_and_one_full_sequence_can_finish(needs: MemoryNeeds, budget: int) -> None:
    plan = _plan(needs, budget)
    if plan is None:
        return
    assert _used(needs, plan) <= budget
    assert plan.num_slots >= 1
    assert 1 <= plan.max_model_len <= _wanted_len(needs)
    assert plan.num_blocks * needs.block_size >= plan.max_model_len
    assert plan.num_slots <= (needs.max_num_seqs or DEFAULT_NUM_SEQS)
    assert plan.num_blocks <= plan.num_slots * -(-plan.max_model_len // needs.block_size)  # no block for nobody


@given(needs_of_any_size, budgets)
def test_what_is_clamped_is_said(needs: MemoryNeeds, budget: int) -> None:
    plan = _plan(needs, budget)
    if plan is None:
        return
    notes = "\n".join(plan.notes)
    assert (f"clamped to the model's own limit, {needs.model_max_len}" in notes) == (
        (needs.max_model_len or 0) > needs.model_max_len
    )
    assert (f"is clamped to {plan.max_model_len}, what" in notes) == (plan.max_model_len < _wanted_len(needs))
    wanted = needs.max_num_seqs or DEFAULT_NUM_SEQS
    assert (f"{wanted} sequences at once are clamped to {plan.num_slots}:" in notes) == (plan.num_slots < wanted)


@given(needs_of_any_size, budgets, budgets)
def test_a_larger_budget_never_gives_less(needs: MemoryNeeds, one: int, two: int) -> None:
    """Context first, then sequences, then blocks."""
    small, large = _plan(needs, min(one, two)), _plan(needs, max(one, two))
    if small is not None:
        assert large is not None
        assert _order(small) <= _order(large)


def _order(plan: MemoryPlan) -> tuple[int, int, int]:
    return plan.max_model_len, plan.num_slots, plan.num_blocks


@given(needs_of_any_size, budgets)
def test_the_table_adds_up(needs: MemoryNeeds, budget: int) -> None:
    plan = _plan(needs, budget)
    if plan is None:
        return
    assert sum(size for _, _, size in plan.rows) == needs.weights_bytes + _used(needs, plan)
    lines = plan.table.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["weights", "state slots", "checkpoints", "KV cache", "total"]
    assert len({len(line) for line in lines}) == 1


def test_the_real_model_in_plenty() -> None:
    plan = plan_memory(REAL, 200 * GIB)
    assert (plan.max_model_len, plan.num_slots, plan.num_blocks) == (262_144, 16, 16 * 4096)
    assert plan.num_checkpoints == MAX_CHECKPOINTS
    assert plan.notes == ()


def test_the_real_model_gives_up_slots_before_context() -> None:
    plan = plan_memory(REAL, 7 * GIB)
    assert (plan.max_model_len, plan.num_slots, plan.num_checkpoints) == (262_144, 5, MIN_CHECKPOINTS)
    assert plan.notes == ("16 sequences at once are clamped to 5: each takes 75.4 MiB of state",)


def test_checkpoints_take_what_was_asked_for() -> None:
    plan = plan_memory(replace(REAL, checkpoint_bytes=0), 7 * GIB)
    assert (plan.num_slots, plan.num_checkpoints) == (13, 0)
    plan = plan_memory(replace(REAL, checkpoint_bytes=GIB), 20 * GIB)
    assert (plan.num_slots, plan.num_checkpoints) == (16, GIB // REAL.slot_bytes)
    plan = plan_memory(replace(REAL, checkpoint_bytes=2 * GIB), GIB)
    assert plan.num_blocks == 1
    assert plan.notes[0].startswith("cache-ram-bytes is clamped to ")


def test_the_real_model_in_little() -> None:
    plan = plan_memory(REAL, 1 * GIB)
    assert plan.num_slots == 1
    assert 31_000 < plan.max_model_len < 32_000
    assert plan.num_checkpoints == 2
    assert plan.notes[0].startswith("max-model-len 262144 is clamped to ")


def test_too_little_for_anything() -> None:
    with pytest.raises(LoadError, match=r"^70\.0 MiB for the cache is too little: one sequence needs 76\.9 MiB"):
        plan_memory(REAL, 70 * MIB)
    with pytest.raises(LoadError):
        plan_memory(REAL, -5 * GIB)
