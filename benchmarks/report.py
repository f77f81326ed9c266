"""What was measured: a table for people, JSON for machines."""

import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.limits import Limits
from benchmarks.writing import write_results

LOADING_AT_MOST, LOADING_AIM = 2_000_000_000, 1_000_000_000  # bytes beyond the weights


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: our figures and a peer's, pair by pair.

    Attributes:
        unit: of tokens a second more is better, of seconds less.
        limit: the best the machine allows; None where that is not known.
        limits: what the machine did at most just before.
        at_least, aim: targets for the ratio; None where there is none.
        agreement: share of the streams whose first token is the same with both. It is lower the coarser the weights are
            and the more engines round; near zero one of them computes something else.
    """

    name: str
    model: str
    peer: str
    unit: Literal["tokens/s", "s"]
    ours: Sequence[float]
    theirs: Sequence[float]
    at_least: float | None = None
    aim: float | None = None
    limit: float | None = None
    limits: Limits | None = None
    agreement: float | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times better we are, by pair."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return [ours / theirs if self.unit == "tokens/s" else theirs / ours for ours, theirs in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def share_of_limit(self) -> float | None:
        return statistics.median(self.ours) / self.limit if self.limit else None

    def __str__(self) -> str:
        return f"{self.name}, {self.model}, {self.peer}: {self.ratio:.2f} × [{_spread(self.ratios)}]"

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            f"{self.name}, {self.model}",
            f"{_short(statistics.median(self.ours))} {self.unit}",
            _percent(self.share_of_limit),
            self.peer,
            _short(statistics.median(self.theirs)),
            f"{self.ratio:.2f} ×",
            _spread(self.ratios),
            _times(self.at_least),
            _times(self.aim),
            _percent(self.agreement),
        )


@dataclass(frozen=True, slots=True)
class Loading:
    """The most memory a daemon took until it was ready, start by start, and the bytes of the weights it serves."""

    model: str
    weight_bytes: int
    peak_bytes: Sequence[int]
    peer_peak_bytes: Sequence[int]

    @property
    def excess_bytes(self) -> int:
        return max(self.peak_bytes) - self.weight_bytes

    def __str__(self) -> str:
        return (
            f"peak memory while loading {self.model}: {max(self.peak_bytes) / 1e9:.2f} GB for"
            f" {self.weight_bytes / 1e9:.2f} GB of weights, {self.excess_bytes / 1e9:+.2f} GB"
            f" (at most {LOADING_AT_MOST / 1e9:+.0f} GB, aim {LOADING_AIM / 1e9:+.0f} GB);"
            f" llama.cpp {max(self.peer_peak_bytes) / 1e9:.2f} GB"
        )


@dataclass(slots=True)
class Report:
    """Everything measured so far. `settings` are the command's."""

    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    loadings: list[Loading] = field(default_factory=list)

    def print(self) -> None:
        table = Table(
            "", "deltaloop", "of limit", "against", "theirs", "ratio", "spread", "at least", "aim", "same token"
        )
        for row in self.rows:
            table.add_row(*row.cells)
        console = Console(width=150)
        console.print(table)
        measured = {f"{row.model} and {row.peer}": row.limits for row in self.rows if row.limits is not None}
        for what, limits in measured.items():
            console.print(f"limits before {what}: {_rates(limits)}")
        for loading in self.loadings:
            console.print(str(loading))

    def write(self, path: Path) -> None:
        """As JSON, derived figures included."""
        results = {
            "processor": _processor(),
            "torch": torch.__version__,
            "settings": self.settings,
            "rows": [
                asdict(row) | {"ratio": row.ratio, "ratios": row.ratios, "share_of_limit": row.share_of_limit}
                for row in self.rows
            ],
            "loading": [asdict(loading) | {"excess_bytes": loading.excess_bytes} for loading in self.loadings],
        }
        write_results(path, results)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} – {max(ratios):.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:g} ×"


def _rates(limits: Limits) -> str:
    return (
        f"{limits.read_bytes / 1e9:.1f} GB/s read, {limits.bf16_operations / 1e9:.0f} GFLOP/s bf16,"
        f" {limits.int8_operations / 1e9:.0f} GOP/s int8"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
