"""Prometheus metrics under vLLM's names and buckets, so that dashboards made for it work here, and a few of our own.

Gauges ask the engine when they are read, step histograms listen to it, the rest is told by whoever knows. All live in a
registry of this object: nothing is process-wide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.client import EngineClient, EngineStats, LowerTierStats, StepStats
from engine.types import CacheReport, CacheTier, ErrorReason, MissReason

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
GAP_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STEP_TOKEN_BUCKETS = (1, *(2**power for power in range(3, 15)))
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
OTHER_ERROR = "other"
NO_TIER = "none"
REJECTED_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")
_LABELS = ("model_name", "engine")


def token_buckets(limit: int) -> tuple[int, ...]:
    """1, 2, 5, 10, … up to the context length."""
    series = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    return tuple(bucket for bucket in series if bucket <= limit) or (1,)


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """One sequence at its end. Moments are `time.monotonic()` seconds; None for what it never came to.

    `error_reason` is the engine's, of one that ended as "error"; None when the fault was found outside the engine.
    """

    finished_reason: str
    error_reason: ErrorReason | None
    num_prompt_tokens: int
    cache: CacheReport | None
    num_generated_tokens: int
    num_preemptions: int
    max_tokens: int | None
    interactive: bool
    arrival: float
    admitted: float | None
    first_token: float | None
    last_token: float | None
    finished: float


class Metrics:
    """All metrics of one server. Every series of a bounded label is there from the start, at zero."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self._add_gauges(engine)
        self._add_counters()
        self._add_step_metrics()
        self._add_length_histograms(token_buckets(engine.info.max_model_len))
        self._add_time_histograms()
        self._http = Counter(
            "http_requests", "HTTP requests by route.", ("handler", "method", "status"), registry=self.registry
        )
        engine.add_step_listener(self._step)

    def render(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return generate_latest(self.registry)

    # --- what others tell ----------------------------------------------------------------------------------------

    def http_request(self, handler: str, method: str, status: int) -> None:
        """Count an answered HTTP request under its route, not its path."""
        self._http.labels(handler, method, f"{status // 100}xx").inc()

    def admission_rejected(self, reason: str) -> None:
        """Count a request turned away by a full line."""
        self._rejections.labels(self._labels["model_name"], reason).inc()

    def observe_token_gap(self, seconds: float) -> None:
        """Note the time between two outputs of one sequence."""
        self._token_gap.observe(seconds)

    def sequence_finished(self, record: SequenceRecord) -> None:
        """Count a sequence that ended, however it ended."""
        reason = "stop" if record.finished_reason == "tool_calls" else record.finished_reason
        self._success.labels(**self._labels, finished_reason=reason).inc()
        if reason == "error":
            self._errors.labels(**self._labels, reason=record.error_reason or OTHER_ERROR).inc()
        self._prompt_length.observe(record.num_prompt_tokens)
        self._generation_length.observe(record.num_generated_tokens)
        self._preempted.observe(record.num_preemptions)
        if record.max_tokens is not None:
            self._max_tokens_asked.observe(record.max_tokens)
        self._latency.observe(record.finished - record.arrival)
        if record.admitted is not None:
            self._queue_time.observe(record.admitted - record.arrival)
        if record.first_token is not None or record.finished_reason == "length":  # of no tokens: only read
            self._observe_prompt(record)
        if record.first_token is not None:
            self._observe_answer(record, record.first_token)

    def prompt_finished(self, num_choices: int, most_generated_tokens: int) -> None:
        """Count a prompt whose every choice has ended, once however often it was answered."""
        self._choices.observe(num_choices)
        self._max_generated.observe(most_generated_tokens)

    def _observe_prompt(self, record: SequenceRecord) -> None:
        """What is only known of a sequence whose prompt was read."""
        self._cache_queries.inc(record.num_prompt_tokens)
        num_cached_tokens = record.cache.num_cached_tokens if record.cache else 0
        self._cache_hits.inc(num_cached_tokens)
        self._cached.inc(num_cached_tokens)
        self._computed_length.observe(record.num_prompt_tokens - num_cached_tokens)
        if record.cache is not None:
            self._lookups.labels(**self._labels, tier=record.cache.tier or NO_TIER, miss=record.cache.miss).inc()
            if record.cache.tier is CacheTier.DISK:
                self._restore_time.observe(record.cache.restore_seconds)

    def _observe_answer(self, record: SequenceRecord, first_token: float) -> None:
        """What is only known of a sequence that came to its first token."""
        self._first_token.observe(first_token - record.arrival)
        if record.interactive:
            self._interactive_first_token.observe(first_token - record.arrival)
        last = record.last_token or first_token
        self._decode_time.observe(last - first_token)
        if record.admitted is not None:
            self._prefill_time.observe(first_token - record.admitted)
            self._inference_time.observe(last - record.admitted)
        if record.num_generated_tokens > 1:
            self._per_token.observe((last - first_token) / (record.num_generated_tokens - 1))

    def _step(self, step: StepStats) -> None:
        self._step_tokens.observe(step.num_tokens)
        self._step_seconds.observe(step.seconds)
        self._prompt_tokens.inc(step.num_prompt_tokens)
        self._generation_tokens.inc(step.num_generated_tokens)
        self._preemptions.inc(step.num_preemptions)

    # --- what there is -------------------------------------------------------------------------------------------

    def _add_gauges(self, engine: EngineClient) -> None:
        info, stats = engine.info, engine.stats
        running = self._gauge("vllm:num_requests_running", "Sequences that run.")
        running.set_function(lambda: stats().num_running)
        waiting = self._gauge("vllm:num_requests_waiting", "Sequences that wait in line.")
        waiting.set_function(lambda: stats().num_waiting)
        usage = self._gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")
        usage.set_function(lambda: stats().kv_cache_usage)
        used = self._gauge("deltaloop:state_slots_used", "Recurrent state slots in use.")
        used.set_function(lambda: stats().num_slots_used)
        self._gauge("deltaloop:state_slots_total", "Recurrent state slots.").set(info.num_slots)
        kept = self._gauge("deltaloop:checkpoints_kept", "States kept between requests.")
        kept.set_function(lambda: stats().num_checkpoints_kept)
        self._gauge("deltaloop:checkpoints_total", "States there is room for.").set(info.num_checkpoints)
        evicted = self._gauge("deltaloop:checkpoints_evicted", "States that went to make room, since the start.")
        evicted.set_function(lambda: stats().num_evictions)
        kept_bytes = Gauge(
            "deltaloop:kept_bytes", "Bytes of kept states and their KV.", (*_LABELS, "tier"), registry=self.registry
        )
        kept_bytes.labels(**self._labels, tier="memory").set_function(lambda: stats().kept_memory_bytes)
        kept_bytes.labels(**self._labels, tier="host").set_function(lambda: stats().host.num_bytes)
        kept_bytes.labels(**self._labels, tier="disk").set_function(lambda: stats().disk.num_bytes)
        self._add_lower_tier_gauges("host", "main memory", lambda: stats().host)
        self._add_lower_tier_gauges("disk", "disk", lambda: stats().disk)
        by_reason = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Sequences that wait, by why.",
            (*_LABELS, "reason"),
            registry=self.registry,
        )
        by_reason.labels(**self._labels, reason="capacity").set_function(lambda: _num_for_capacity(stats()))
        by_reason.labels(**self._labels, reason="deferred").set_function(lambda: stats().num_held_back)
        facts = {
            "block_size": str(info.block_size),
            "num_gpu_blocks": str(info.num_blocks),
            "cache_dtype": info.dtype,
            "enable_prefix_caching": str(info.num_checkpoints > 0),
        }
        config = Gauge("vllm:cache_config_info", "Facts of the KV cache.", (*_LABELS, *facts), registry=self.registry)
        config.labels(**self._labels, **facts).set(1)

    def _add_lower_tier_gauges(self, name: str, place: str, stats: Callable[[], LowerTierStats]) -> None:
        kept = self._gauge(f"deltaloop:{name}_states_kept", f"States kept in {place}.")
        kept.set_function(lambda: stats().num_states)
        evicted = self._gauge(f"deltaloop:{name}_states_evicted", f"States that went from {place} to make room.")
        evicted.set_function(lambda: stats().num_evictions)
        self._gauge(f"deltaloop:{name}_bytes_total", f"Bytes of {place} there are for states.").set(stats().max_bytes)
        lag = self._gauge(f"deltaloop:{name}_lag_seconds", f"For how long a state has waited to be written to {place}.")
        lag.set_function(lambda: stats().lag_seconds)

    def _add_counters(self) -> None:
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens computed.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._preemptions = self._counter("vllm:num_preemptions", "Sequences sent back to the line to make room.")
        self._cache_queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._cache_hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._cached = self._counter("vllm:prompt_tokens_cached", "Prompt tokens not computed because of the cache.")
        self._lookups = Counter(
            "deltaloop:prompt_lookups",
            "Prompts looked up in the cache, by where a state was found and why not a longer one.",
            (*_LABELS, "tier", "miss"),
            registry=self.registry,
        )
        for tier, miss in product((NO_TIER, *CacheTier), MissReason):
            self._lookups.labels(**self._labels, tier=tier, miss=miss)
        self._success = Counter(
            "vllm:request_success", "Sequences that ended.", (*_LABELS, "finished_reason"), registry=self.registry
        )
        for reason in FINISHED_REASONS:
            self._success.labels(**self._labels, finished_reason=reason)
        self._errors = Counter(
            "deltaloop:errors",
            "Sequences that ended with an error, by why.",
            (*_LABELS, "reason"),
            registry=self.registry,
        )
        for error in (*ErrorReason, OTHER_ERROR):
            self._errors.labels(**self._labels, reason=error)
        self._rejections = Counter(
            "vllm:admission_rejections", "Requests turned away.", ("model_name", "reason"), registry=self.registry
        )
        for reason in REJECTED_REASONS:
            self._rejections.labels(self._labels["model_name"], reason)

    def _add_step_metrics(self) -> None:
        self._step_tokens = self._histogram("vllm:iteration_tokens_total", "Tokens a step.", STEP_TOKEN_BUCKETS)
        self._step_seconds = self._histogram("deltaloop:step_seconds", "Seconds a step computed.", STEP_BUCKETS)

    def _add_length_histograms(self, buckets: tuple[int, ...]) -> None:
        histogram = self._histogram
        self._prompt_length = histogram("vllm:request_prompt_tokens", "Prompt tokens a sequence.", buckets)
        self._generation_length = histogram("vllm:request_generation_tokens", "Generated tokens a sequence.", buckets)
        self._max_generated = histogram(
            "vllm:request_max_num_generation_tokens", "Most tokens generated for a request.", buckets
        )
        self._max_tokens_asked = histogram("vllm:request_params_max_tokens", "max_tokens of a request.", buckets)
        self._choices = histogram("vllm:request_params_n", "n of a request.", (1, 2, 5, 10, 20))
        self._preempted = histogram(
            "vllm:request_num_preemptions", "Times a sequence was sent back to the line.", (0, 1, 2, 5, 10, 20)
        )
        self._computed_length = histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens computed for a sequence.", buckets
        )

    def _add_time_histograms(self) -> None:
        histogram, latency = self._histogram, LATENCY_BUCKETS
        self._first_token = histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS)
        self._interactive_first_token = histogram(
            "deltaloop:interactive_time_to_first_token_seconds",
            "Arrival to first token, of interactive requests alone.",
            TTFT_BUCKETS,
        )
        self._token_gap = histogram("vllm:inter_token_latency_seconds", "Between two outputs.", GAP_BUCKETS)
        self._per_token = histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per token after the first.", GAP_BUCKETS
        )
        self._latency = histogram("vllm:e2e_request_latency_seconds", "Arrival to end.", latency)
        self._queue_time = histogram("vllm:request_queue_time_seconds", "Arrival to first computed.", latency)
        self._inference_time = histogram("vllm:request_inference_time_seconds", "First computed to end.", latency)
        self._prefill_time = histogram("vllm:request_prefill_time_seconds", "First computed to first token.", latency)
        self._decode_time = histogram("vllm:request_decode_time_seconds", "First token to last token.", latency)

        self._restore_time = histogram("deltaloop:restore_seconds", "To bring a state from a lower tier.", GAP_BUCKETS)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self.registry).labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _LABELS, registry=self.registry, buckets=buckets).labels(**self._labels)


def _num_for_capacity(stats: EngineStats) -> int:
    """Those who wait for memory, or for room in a step; the others' API key has enough running."""
    return stats.num_waiting - stats.num_held_back
