"""The memory planner: from a byte budget to KV blocks, state slots, checkpoints and a context length. Pure arithmetic.

It never refuses what it can shrink: slots give way first, then the context. Whatever it clamps, it says.
"""

from dataclasses import dataclass

from engine.errors import LoadError

DEFAULT_NUM_SEQS = 16
MAX_SLOT_SHARE = 0.5  # of the budget: the rest is worth more as KV, which every running sequence needs too
MIN_CHECKPOINTS = 8  # before the context gets all it wants: without any, every prompt is read whole
MIN_CHECKPOINT_SHARE = 0.2  # of a budget too small for these
CHECKPOINT_SHARE = 0.3  # of what running slots leave
MAX_CHECKPOINTS = 512  # to look through when one has to go


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """What the model and the settings ask for. Sizes in bytes; None where the planner may choose."""

    block_bytes: int
    block_size: int
    slot_bytes: int
    weights_bytes: int
    model_max_len: int
    max_model_len: int | None
    max_num_seqs: int | None
    checkpoint_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What is allocated. `notes` are sentences about everything that had to be clamped."""

    num_blocks: int
    num_slots: int
    num_checkpoints: int
    max_model_len: int
    rows: tuple[tuple[str, str, int], ...]
    notes: tuple[str, ...]

    @property
    def table(self) -> str:
        """The plan for people: what, how many, how much."""
        lines = [f"{what:<14}{detail:<46}{_human(size):>10}" for what, detail, size in self.rows]
        total = sum(size for _, _, size in self.rows)
        return "\n".join([*lines, f"{'total':<60}{_human(total):>10}"])


def plan_memory(needs: MemoryNeeds, budget_bytes: int) -> MemoryPlan:
    """Divide `budget_bytes` (weights not counted) into slots and blocks.

    At least one sequence of `max_model_len` tokens always fits, so every admitted request can finish.
    Raises:
        LoadError: not even one slot and one block fit.
    """
    notes: list[str] = []
    wanted_len = min(needs.max_model_len or needs.model_max_len, needs.model_max_len)
    if needs.max_model_len is not None and needs.max_model_len > wanted_len:
        notes.append(f"max-model-len {needs.max_model_len} is clamped to the model's own limit, {wanted_len}")
    kept_bytes = _least_checkpoint_bytes(needs, budget_bytes, notes)
    max_len = _fit_context(needs, wanted_len, budget_bytes - kept_bytes, notes)
    blocks_per_seq = -(-max_len // needs.block_size)
    num_slots = _fit_slots(needs, blocks_per_seq * needs.block_bytes, budget_bytes - kept_bytes, notes)
    left = budget_bytes - num_slots * needs.slot_bytes
    if needs.checkpoint_bytes is None:
        spare = left - blocks_per_seq * needs.block_bytes
        kept_bytes = max(kept_bytes, min(int(CHECKPOINT_SHARE * left), spare, MAX_CHECKPOINTS * needs.slot_bytes))
    num_blocks = min((left - kept_bytes) // needs.block_bytes, num_slots * blocks_per_seq)
    num_checkpoints = kept_bytes // needs.slot_bytes
    rows = _rows(needs, num_blocks, num_slots, num_checkpoints)
    return MemoryPlan(num_blocks, num_slots, num_checkpoints, max_len, rows, tuple(notes))


def _least_checkpoint_bytes(needs: MemoryNeeds, budget: int, notes: list[str]) -> int:
    """What is for checkpoints before anything else is divided: as much as was asked for, or some."""
    room = max(0, budget - needs.slot_bytes - needs.block_bytes)
    if needs.checkpoint_bytes is None:
        return min(MIN_CHECKPOINTS * needs.slot_bytes, int(MIN_CHECKPOINT_SHARE * budget), room)
    if needs.checkpoint_bytes > room:
        notes.append(f"cache-ram-bytes is clamped to {_human(room)}, what a sequence leaves of {_human(budget)}")
    return min(needs.checkpoint_bytes, room)


def _fit_context(needs: MemoryNeeds, wanted: int, budget: int, notes: list[str]) -> int:
    num_blocks = (budget - needs.slot_bytes) // needs.block_bytes
    if num_blocks < 1:
        least = needs.slot_bytes + needs.block_bytes
        raise LoadError(
            f"{_human(budget)} for the cache is too little: one sequence needs {_human(least)} at least;"
            " give more with --kv-cache-memory-bytes, or free memory"
        )
    fits = num_blocks * needs.block_size
    if wanted > fits:
        notes.append(f"max-model-len {wanted} is clamped to {fits}, what {_human(budget)} of cache holds")
    return min(wanted, fits)


def _fit_slots(needs: MemoryNeeds, sequence_kv_bytes: int, budget: int, notes: list[str]) -> int:
    wanted = needs.max_num_seqs or DEFAULT_NUM_SEQS
    share = budget if needs.max_num_seqs else int(budget * MAX_SLOT_SHARE)
    most = min(share, budget - sequence_kv_bytes) // needs.slot_bytes
    num_slots = max(1, min(wanted, most))
    if num_slots < wanted:
        notes.append(
            f"{wanted} sequences at once are clamped to {num_slots}: each takes {_human(needs.slot_bytes)} of state"
        )
    return num_slots


def _rows(
    needs: MemoryNeeds, num_blocks: int, num_slots: int, num_checkpoints: int
) -> tuple[tuple[str, str, int], ...]:
    tokens = num_blocks * needs.block_size
    return (
        ("weights", "", needs.weights_bytes),
        (
            "state slots",
            f"{num_slots} sequences at once, {_human(needs.slot_bytes)} each",
            num_slots * needs.slot_bytes,
        ),
        ("checkpoints", f"{num_checkpoints} states kept to go on from", num_checkpoints * needs.slot_bytes),
        ("KV cache", f"{num_blocks} blocks, {tokens} tokens in all", num_blocks * needs.block_bytes),
    )


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
