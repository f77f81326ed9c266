"""The table of targets: prefill, decode and start on slices of the real model, beside whichever peers are installed.

    python -m benchmarks.cpu [--peer llama.cpp=/path/to/python]… [--only "decode"]… [--long]

The slices (random weights, real dimensions) are made at the first run and kept in --folder: some 25 GB, and another
28 GB while they are made. Each pair of subjects is loaded once and asked in turn. Prints the median of each, its share
of what the machine's measured limits allow, the median of the pairs' ratios with the lowest and the highest, and the
targets; after every line what is known so far is written as JSON.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from benchmarks.files import Files, Slice, default_folder
from benchmarks.limits import Demand, measure_limits
from benchmarks.pairs import Decode, Prefill, Question, agreement, alternate
from benchmarks.peers import MODULES, is_installed
from benchmarks.report import Loading, Report, Row
from benchmarks.starting import Start, deltaloop_server, llama_server, read_into_page_cache
from benchmarks.subjects import SubjectFailed, Worker
from engine.runner.machine import available_memory_bytes, num_cores

LONG, LONG_PAIRS = Prefill(32 * 1024), 2  # pairs of it take minutes
MEMORY_SPARE_BYTES = 8_000_000_000  # of two subjects, beyond their weights: caches, runtimes, scratch memory
HUB = "bf16, hub layout"
LLAMA_SERVER = "llama_cpp.server"


@dataclass(frozen=True, slots=True)
class Target:
    """A question, put to us and to a peer on one model, and how many times as fast as it we are to be."""

    question: Question
    model: str
    peer: str
    at_least: float | None = None
    aim: float | None = None

    @property
    def name(self) -> str:
        return f"{self.question.name}, {self.model}, {self.peer}"


def targets(num_tokens: int, prompts: Sequence[int], with_long_prompt: bool) -> list[Target]:
    """Those of one model and peer follow each other. Each stream gets `num_tokens`; the longest prompt is optional."""
    one, four, eight, sixteen = (Decode(streams, num_tokens) for streams in (1, 4, 8, 16))
    short, *longer = map(Prefill, prompts)
    long = [Target(LONG, "Q4_K_M", "llama.cpp", 2.0, 3.0)] if with_long_prompt else []
    return [
        Target(one, "Q4_K_M", "llama.cpp", 1.1, 1.25),
        Target(four, "Q4_K_M", "llama.cpp", 1.4, 1.7),
        Target(eight, "Q4_K_M", "llama.cpp", 2.0, 2.4),
        Target(sixteen, "Q4_K_M", "llama.cpp", 2.0, 2.6),
        *(Target(prefill, "Q4_K_M", "llama.cpp", 2.5, 3.2) for prefill in (short, *longer)),
        *long,
        Target(one, "Q8_0", "llama.cpp", 1.05, 1.2),
        Target(one, "BF16", "llama.cpp", 0.97, 1.0),
        Target(one, HUB, "vllm", 1.3, 1.4),
        Target(sixteen, HUB, "vllm", 1.2, 1.5),
        Target(short, HUB, "vllm", 1.0, 1.1),
        Target(one, HUB, "transformers"),
        Target(sixteen, HUB, "transformers"),
        Target(short, HUB, "transformers"),
    ]


def measure_rates(args: argparse.Namespace, files: Files, group: Sequence[Target]) -> Iterator[Row]:
    """The rows of targets that have model and peer in common."""
    name, peer = group[0].model, group[0].peer
    path = files.checkpoint(args.slice) if name == HUB else files.gguf(args.slice, name)
    demand, limits = Demand.of(path), measure_limits()
    together = available_memory_bytes() > 2 * demand.num_bytes + MEMORY_SPARE_BYTES
    ours = Worker("deltaloop", path, sys.executable, _options(args))
    theirs = Worker(peer, path, args.peers[peer], _options(args))
    try:
        for target in group:
            num_pairs = min(args.pairs, LONG_PAIRS) if target.question == LONG else args.pairs
            pairs = list(alternate(ours, theirs, target.question, num_pairs, together))
            yield Row(
                name=target.question.name,
                model=name,
                peer=peer,
                unit="tokens/s",
                ours=[answer.rate for answer, _ in pairs],
                theirs=[answer.rate for _, answer in pairs],
                at_least=target.at_least,
                aim=target.aim,
                limit=target.question.limit(demand, limits),
                limits=limits,
                agreement=agreement(pairs),
            )
    finally:
        ours.close()
        theirs.close()


def measure_starts(args: argparse.Namespace, files: Files) -> tuple[Row, Row, Loading]:
    """Start to ready, start to a first token, and the memory that loading takes; the file is in the page cache."""
    model, name = files.lone_gguf(args.large_slice, "Q4_K_M"), f"{args.large_slice} Q4_K_M"
    servers = (
        deltaloop_server(sys.executable, model, args.threads),
        llama_server(args.peers["llama.cpp"], model, args.threads),
    )
    read_into_page_cache(model)
    pairs = [tuple(server.start() for server in servers) for _ in range(args.pairs + 1)][1:]
    ours, theirs = zip(*pairs, strict=True)

    def row(
        what: str, seconds: Callable[[Start], float], at_least: float | None = None, aim: float | None = None
    ) -> Row:
        our_seconds, their_seconds = ([seconds(start) for start in starts] for starts in (ours, theirs))
        return Row(what, name, LLAMA_SERVER, "s", our_seconds, their_seconds, at_least=at_least, aim=aim)

    ready = row("start to ready", lambda start: start.ready_seconds, at_least=1.0, aim=2.0)
    token = row("start to a first token", lambda start: start.token_seconds)
    peaks, peer_peaks = [start.peak_bytes for start in ours], [start.peak_bytes for start in theirs]
    return ready, token, Loading(name, Demand.of(model).num_bytes, peaks, peer_peaks)


def main() -> None:
    """Measure what is wanted and can be, and report after every line."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    files = Files(args.folder, args.peers["llama.cpp"])
    missing = {peer for peer, python in args.peers.items() if not is_installed(peer, python)}
    for peer in sorted(missing):
        _say(f"{peer} is not installed: what is measured against it is left out")
    report = Report(vars(args))
    wanted = [
        target
        for target in targets(args.tokens, args.prompts, args.long)
        if target.peer not in missing and _is_wanted(target.name, args.only)
    ]
    for _, group in groupby(wanted, lambda target: (target.model, target.peer)):
        with _going_on_after_failure():
            for row in measure_rates(args, files, list(group)):
                report.rows.append(row)
                report.write(args.out)
                _say(str(row))
    if "llama.cpp" not in missing and _is_wanted("start", args.only):
        with _going_on_after_failure():
            ready, token, loading = measure_starts(args, files)
            report.rows += [ready, token]
            report.loadings.append(loading)
            report.write(args.out)
    report.print()


@contextmanager
def _going_on_after_failure() -> Iterator[None]:
    """What a subject cannot do is left out, and said."""
    try:
        yield
    except SubjectFailed as failure:
        _say(f"{failure}: what was to come of it is left out")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where models are kept")
    parser.add_argument("--slice", type=Slice.parse, default=Slice(8, 128), help="layers and experts, as 8x128")
    parser.add_argument("--large-slice", type=Slice.parse, default=Slice(4, 512), help="the one that servers load")
    parser.add_argument(
        "--peer", dest="peers", action="append", default=[], metavar="NAME=PYTHON", help="where a peer is installed"
    )
    parser.add_argument("--only", action="append", default=[], help="part of the name of what to measure")
    parser.add_argument("--long", action="store_true", help=f"{LONG.name} too: some minutes more")
    parser.add_argument("--pairs", type=int, default=7, help="answers of each subject to each question")
    parser.add_argument("--tokens", type=int, default=32, help="tokens decoded by each stream")
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 2048], help="prompt lengths, tokens")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--ubatch", type=int, default=512, help="llama.cpp's n_ubatch, tokens")
    parser.add_argument("--repack", action=argparse.BooleanOptionalAction, default=True, help="llama.cpp's repacking")
    parser.add_argument("--max-inter-token-gap", type=float, help="our setting of that name, seconds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.json"))
    args = parser.parse_args()
    given = dict(item.partition("=")[::2] for item in args.peers)
    if unknown := given.keys() - MODULES.keys():
        parser.error(f"--peer: {', '.join(unknown)} is none of {', '.join(MODULES)}")
    args.peers = dict.fromkeys(MODULES, sys.executable) | given
    return args


def _options(args: argparse.Namespace) -> list[str]:
    gap = [] if args.max_inter_token_gap is None else ["--max-inter-token-gap", str(args.max_inter_token_gap)]
    repack = "--repack" if args.repack else "--no-repack"
    return ["--threads", str(args.threads), "--ubatch", str(args.ubatch), repack, *gap]


def _is_wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(text in name for text in only)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
