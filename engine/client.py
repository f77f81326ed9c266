"""`EngineClient`: the one door between server and engine, and the numbers it shows.

Everything here is torch-free. `engine.async_engine.AsyncEngine` is the implementation; tests use scripted ones.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.types import CacheTier, Constraint, GenerationRequest, PromptProgress, TokenOutput


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model as its files describe it, for those who show or judge it.

    Attributes:
        architecture: in GGUF's words, whatever the files are.
        container: what kind of files they are, `gguf` or `safetensors`.
        weight_format: that of most bytes of its matrices in memory, `BF16` or `Q4_K` for example.
        fingerprint: 64 hexadecimal digits that stand for the files.
        modified: when the youngest of them was written, in Unix seconds.
        num_bytes: of all files with weights.
        num_trained_positions: how long its contexts may be; how long this server lets them be is `max_model_len`.
    """

    architecture: str = ""
    container: str = ""
    weight_format: str = ""
    fingerprint: str = ""
    modified: float = 0.0
    num_bytes: int = 0
    num_parameters: int = 0
    num_trained_positions: int = 0
    num_layers: int = 0
    hidden_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    num_experts: int = 0
    num_experts_per_tok: int = 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts that do not change while the engine lives.

    `num_slots` is how many sequences can run at once; `num_blocks` × `block_size` tokens of KV cache they share.
    `max_num_queued_reqs` more can wait. `num_checkpoints` states are kept between requests; `cache_folder`
    is where they are on disk too, for these files and settings alone. `memory_plan` is a table for people
    of where the memory goes.
    """

    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    num_slots: int
    num_blocks: int
    block_size: int
    kv_cache_bytes: int
    state_slot_bytes: int
    device: str
    dtype: str
    max_num_queued_reqs: int = 1024
    num_checkpoints: int = 0
    cache_folder: Path | None = None
    memory_plan: str = ""
    model: ModelFacts = ModelFacts()


@dataclass(frozen=True, slots=True)
class LowerTierStats:
    """What a lower tier keeps. `lag_seconds` is for how long some state that is to be written there has waited for it;
    evictions count from the start."""

    num_states: int = 0
    num_bytes: int = 0
    max_bytes: int = 0
    num_evictions: int = 0
    lag_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine. Usages are shares between 0 and 1; evictions count from the start. Of those that wait,
    `num_held_back` do so because enough of their owner's run."""

    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    kv_cache_usage: float
    num_slots_used: int
    num_blocks_free: int
    num_checkpoints_kept: int = 0
    num_evictions: int = 0
    kept_memory_bytes: int = 0
    num_held_back: int = 0
    host: LowerTierStats = LowerTierStats()
    disk: LowerTierStats = LowerTierStats()


@dataclass(frozen=True, slots=True)
class KeptState:
    """A state that a prompt may go on from, without what it has read.

    Attributes:
        salt: that of the request which left it.
        num_tokens: how many it has read.
        num_beyond: of these, how many the nearest kept state before it has not.
        is_answer: it stands at the end of an answer.
        num_turns: how many answers were gone on from on the way to it.
        num_hits: how often it was gone on from itself.
        idle_seconds: since its conversation went on.
        tier: the nearest where it is.
    """

    salt: str
    num_tokens: int
    num_beyond: int
    is_answer: bool
    num_turns: int
    num_hits: int
    idle_seconds: float
    tier: CacheTier


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one step did, told to every step listener once its results are out.

    Attributes:
        num_tokens: tokens computed, prompt chunks and decoding together.
        num_prompt_tokens: of these, tokens of prompts.
        num_generated_tokens: tokens drawn.
        num_preemptions: sequences sent back to the waiting line to make room.
        seconds: wall time of the forward pass.
    """

    num_tokens: int
    num_prompt_tokens: int
    num_generated_tokens: int
    num_preemptions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """`alive`: the loop runs. `accepting`: not draining. `reason` says in one sentence what is wrong, if anything."""

    alive: bool
    accepting: bool
    reason: str | None = None


class TokenStream(Protocol):
    """The outputs of one submitted request, in order; ends after the one with a finish reason."""

    def __aiter__(self) -> "TokenStream": ...

    async def __anext__(self) -> TokenOutput: ...

    def progress(self) -> PromptProgress:
        """How far the reading of the prompt is."""
        ...

    async def aclose(self) -> None:
        """Stop listening; a sequence that still runs is aborted within one step. May be called at any time."""
        ...


class EngineClient(Protocol):
    """Submit, abort, drain, look. All calls are made on the event loop's thread."""

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queue a request at once and return its outputs.

        Closing the stream (`aclose`, or cancelling the task that awaits it) aborts the sequence within one step.
        Raises:
            RequestError: it can never be served (`ContextOverflow` when the prompt does not fit).
            Overloaded: the line is full, or the engine is draining or dead.
        """
        ...

    def abort(self, request_id: str, owner: str = "") -> bool:
        """End every sequence of this owner's request id with `FinishReason.ABORT`; False when none is known."""
        ...

    async def drain(self, timeout_seconds: float) -> bool:
        """Stop admitting, wait for what runs and waits; abort the rest after the timeout. True when all finished."""
        ...

    async def close(self) -> None:
        """Abort everything and stop the loop."""
        ...

    async def check(self, constraint: Constraint) -> None:
        """Have a constraint compiled, which may take a moment, beside all else. Raises `RequestError`: it is none."""
        ...

    def stats(self) -> EngineStats: ...

    def kept_states(self) -> list[KeptState]:
        """What the next prompts may go on from, the longest first."""
        ...

    def forget_kept_states(self, salted: Callable[[str], bool], tiers: Collection[CacheTier] = tuple(CacheTier)) -> int:
        """Drop those with such salts that nobody uses right now, in these tiers; how many are no more."""
        ...

    def health(self) -> EngineHealth: ...

    def add_step_listener(self, listener: Callable[[StepStats], None]) -> None:
        """Call `listener` after each step, on the event loop's thread."""
        ...
