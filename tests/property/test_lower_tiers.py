"""The promise with lower tiers: conversations that go on after restarts, over tiny memories, with damaged files.

States are written and read in pieces between steps, so that what is copied changes meanwhile, and the process may end
at any moment, in the middle of a write too. What a restart finds on disk then is used, or not; a token never changes.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine.core import CoreLimits
from engine.scheduler.sequence import Sequence
from engine.types import CacheTier, FinishReason, GenerationRequest
from tests.property.test_prefix_reuse import conversations
from tests.support.engine_runs import Run, expected, limits
from tests.support.hash_files import HashFiles, Tidier
from tests.support.hash_model import expected_scores


@dataclass
class World:
    """Requests in the order in which they come, and processes that end and start again."""

    limits: CoreLimits
    requests: list[GenerationRequest]
    random: Random
    crash_rate: float
    files: HashFiles | None = None
    open: list[tuple[GenerationRequest, Sequence]] = field(default_factory=list)
    num_from: Counter[CacheTier] = field(default_factory=Counter)
    num_restarts: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new process: nothing of the old one is left but the files."""
        self.run = Run(self.limits)
        if self.files is None:
            self.files = HashFiles(self.run.model)
        self.files.model = self.run.model
        disk = self.run.core.lower[CacheTier.DISK]
        disk.know(self.files.known())
        self.tidiers = [Tidier(disk, self.files)]
        if CacheTier.HOST in self.run.core.lower:
            self.tidiers.append(Tidier(self.run.core.lower[CacheTier.HOST], HashFiles(self.run.model)))
        lost, self.open = self.open, []
        for request, _ in lost:
            self.ask(request)

    def ask(self, request: GenerationRequest) -> None:
        sequence = self.run.core.add(request)
        self.run.outputs[sequence.seq_id] = []
        self.open.append((request, sequence))

    def crash(self) -> None:
        """In the middle of a write, if there is one."""
        self.num_restarts += 1
        save = self.tidiers[0].save
        if save is not None:
            self.files_.publish_blocks(save.transfer, self.random.randint(0, len(save.transfer.blocks)))
        self.start()

    @property
    def files_(self) -> HashFiles:
        assert self.files is not None
        return self.files

    def damage(self) -> None:
        names: list[str | bytes] = [*self.files_.states, *self.files_.blocks]
        if names:
            self.files_.damaged.add(self.random.choice(names))

    def go_on(self) -> None:
        """Something happens."""
        self.run.now += self.random.choice([0.0, 0.1, 2.0])
        choice = self.random.random()
        if choice < 0.08 and self.requests:
            self.ask(self.requests.pop(0))
        elif choice < 0.25:
            self.random.choice(self.tidiers).begin_save()
        elif choice < 0.42:
            self.random.choice(self.tidiers).end_save()
        elif choice < 0.5:
            self.random.choice(self.tidiers).load_one()
        elif choice < 0.5 + self.crash_rate:
            self.crash()
        elif choice < 0.56:
            self.damage()
        elif choice < 0.57 and self.open:
            _, sequence = self.open.pop(0)
            self.run.abort(sequence)
        else:
            plan = self.run.step()
            if plan is None and self.run.scheduler.has_work:
                assert any(t.loads or t.load_one() for t in self.tidiers), "work is left, but no step comes"
        self.settle()

    def settle(self) -> None:
        self.run.scheduler.check()
        assert all(tier.num_bytes <= tier.max_bytes for tier in self.run.core.lower.values())
        for request, sequence in self.open[:]:
            tokens, reason = self.run.answer(sequence)
            if reason is None:
                continue
            assert reason is not FinishReason.ERROR
            assert (tokens, reason) == expected(request, self.limits.max_model_len)
            assert self.run.scores(sequence) == expected_scores(request.prompt_ids, request.sampling)
            report = sequence.cache_report
            if report is not None and report.tier is not None:
                self.num_from[report.tier] += 1
            self.open.remove((request, sequence))

    def finish(self) -> None:
        for _ in range(20_000):
            if not self.requests and not self.open:
                return
            self.go_on()
        raise AssertionError("no end in sight")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    num_blocks = draw(st.integers(40, 200)) // block_size + 4
    sizes = limits(
        num_blocks=num_blocks,
        block_size=block_size,
        num_slots=draw(st.integers(1, 4)),
        max_model_len=draw(st.integers(num_blocks * block_size // 2, num_blocks * block_size)),
        max_num_batched_tokens=draw(st.sampled_from([5, 24, 64, 512])),
        num_checkpoints=draw(st.sampled_from([0, 1, 2, 3, 4, 6, 8])),
        max_host_bytes=draw(st.just(0) | st.integers(1, 1500) | st.integers(1500, 20_000)),
        max_disk_bytes=draw(st.integers(1, 1500) | st.integers(1500, 20_000) | st.just(50_000)),
    )
    requests = [
        r for turns in draw(st.lists(conversations(sizes.max_model_len), min_size=3, max_size=8)) for r in turns
    ]
    return World(sizes, requests, Random(draw(st.integers(0, 2**32))), draw(st.sampled_from([0.01, 0.03, 0.05])))


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_every_request_gets_the_tokens_it_would_get_alone(world: World) -> None:
    world.finish()
    for tier in CacheTier:
        event(f"from {tier}" if world.num_from[tier] else f"nothing from {tier}")
    event("restarted" if world.num_restarts else "one process")
