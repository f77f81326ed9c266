"""What holding answers to a grammar costs: tokens a second with and without, in pairs.

    python -m benchmarks.constrained [MODEL] [--streams 1,16] [--tokens 128] [--pairs 5] [--out results.json]

Streams of one length each, alone and together. `call` writes a long text into a tool's parameter, `json` an array of
texts, both held from the first token on; `auto` is free text in which the beginning of a call is looked for. "Loss" is
the time that decoding takes longer, the median of the pairs. Before that, without the model: what compiling a grammar
takes, and each mask on the way through an answer that has this file's text in it.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.pairs import FIRST_ID, LAST_ID
from benchmarks.writing import write_results
from engine import EngineConfig, load_engine
from engine.async_engine import AsyncEngine
from engine.constraints.constraints import Constraints
from engine.runner.machine import num_cores
from engine.types import Constraint, GenerationRequest, SamplingParams
from server.chat.answer_form import TextForm, form_grammar
from server.chat.call_grammar import OPENING, function_of, held_calls, whole_answer
from server.chat.conversation import Tool
from server.chat.tokenizer import Tokenizer
from server.cli import bundled_model
from server.model import read_files, served_model

PROMPT_TOKENS = 64
TOOLS = tuple(
    Tool(
        name,
        {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {
                    "content": {"type": "string"},
                    "line": {"type": "integer"},
                    "options": {"type": "object", "properties": {"deep": {"type": "boolean"}}},
                },
                "required": ["content"],
            },
        },
    )
    for name in ("write_file", "edit_file", "run_command", "search", "read_file", "list_files")
)


def kinds() -> dict[str, Constraint]:
    """The constraints that are tried."""
    functions = [function_of(tool, "tools", is_strict=True) for tool in TOOLS]
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1000}
    return {
        "call": Constraint(whole_answer(functions, several=True)),
        "json": Constraint(form_grammar(TextForm("json_schema", texts, "json"))),
        "auto": Constraint(held_calls(functions), OPENING),
    }


def mask_times(tokenizer: Tokenizer, end_ids: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Milliseconds, by kind of constraint."""
    source = Path(__file__).read_text()
    call = f"<function=write_file>\n<parameter=content>\n{source}\n</parameter>\n</function>\n</tool_call>"
    answers = {
        "call": f"<tool_call>\n{call}",
        "json": json.dumps(source.splitlines() * 10, ensure_ascii=False),
        "auto": f"{source}\n<tool_call>\n{call}",
    }
    constraints = Constraints(tokenizer.vocabulary, end_ids)
    constraints.compile(Constraint('start: "a"\n'))  # the vocabulary is read here
    times = {}
    for number, (kind, constraint) in enumerate(kinds().items()):
        started = time.perf_counter()
        constraints.open(number, constraint)
        compiled = time.perf_counter() - started
        ids = tokenizer.encode(answers[kind], parse_special=False)
        seconds = []
        for num_ids in range(len(ids)):
            started = time.perf_counter()
            constraints.begin_mask(number, ids[:num_ids], 0)
            constraints.mask(number)
            seconds.append(time.perf_counter() - started)
        times[kind] = {
            "compile_ms": 1e3 * compiled,
            "median_ms": 1e3 * statistics.median(seconds),
            "mean_ms": 1e3 * statistics.mean(seconds),
            "longest_ms": 1e3 * max(seconds),
        }
    constraints.shut_down()
    return times


async def _decode_seconds(
    engine: AsyncEngine, num_streams: int, num_tokens: int, constraint: Constraint | None
) -> float:
    """From when all streams have begun until the first one ends."""
    rng = random.Random(num_streams)
    begun, ended = [0.0] * num_streams, [0.0] * num_streams
    counts = [0] * num_streams

    async def stream(number: int) -> None:
        prompt = tuple(rng.randrange(FIRST_ID, min(LAST_ID, engine.info.vocab_size)) for _ in range(PROMPT_TOKENS))
        sampling = SamplingParams(max_tokens=num_tokens, temperature=1.0, seed=number)
        async for output in engine.submit(GenerationRequest(f"s{number}", prompt, sampling, constraint=constraint)):
            begun[number] = begun[number] or time.perf_counter()
            counts[number] += len(output.token_ids)
            ended[number] = time.perf_counter()

    await asyncio.gather(*(stream(number) for number in range(num_streams)))
    if min(counts) < num_tokens:
        raise RuntimeError(f"a stream ended after {min(counts)} tokens: choose a longer form")
    return min(ended) - max(begun)


async def measure(args: argparse.Namespace, path: Path, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One row for each kind and number of streams."""
    most = max(args.streams)
    config = EngineConfig(path, threads=args.threads, max_num_seqs=most, max_model_len=args.max_model_len)
    engine = load_engine(config, vocabulary=tokenizer.vocabulary)
    for _ in engine.spare_work or ():  # a server does this while nobody asks
        pass
    engine.spare_work = None
    await engine.start()
    rows = []
    for kind, constraint in kinds().items():
        await engine.check(constraint)
        for num_streams in args.streams:
            await _decode_seconds(engine, num_streams, args.tokens, constraint)  # warm
            pairs = [
                (
                    await _decode_seconds(engine, num_streams, args.tokens, None),
                    await _decode_seconds(engine, num_streams, args.tokens, constraint),
                )
                for _ in range(args.pairs)
            ]
            ratios = sorted(held / free for free, held in pairs)
            row = {
                "kind": kind,
                "streams": num_streams,
                "free_tokens_per_second": num_streams * args.tokens / statistics.median(free for free, _ in pairs),
                "held_tokens_per_second": num_streams * args.tokens / statistics.median(held for _, held in pairs),
                "loss": statistics.median(ratios) - 1,
                "losses": [ratio - 1 for ratio in ratios],
            }
            rows.append(row)
    await engine.close()
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a model folder or GGUF file; the bundled one by default")
    parser.add_argument("--streams", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/constrained.json"))
    args = parser.parse_args()
    path = args.model or bundled_model()
    model = served_model(read_files(path), ("model",))
    masks = mask_times(model.tokenizer, model.defaults.eos_token_ids or (model.tokenizer.max_id,))
    of_masks = Table("kind", "compiled in, ms", "a mask: median, ms", "mean", "longest")
    for kind, times in masks.items():
        of_masks.add_row(kind, *(f"{value:.2f}" for value in times.values()))
    Console().print(of_masks)
    rows = asyncio.run(measure(args, path, model.tokenizer))
    table = Table("kind", "streams", "free, tokens/s", "held, tokens/s", "loss", "of pairs")
    for row in rows:
        spread = f"{row['losses'][0]:+.1%} – {row['losses'][-1]:+.1%}"
        rates = (f"{row['free_tokens_per_second']:.1f}", f"{row['held_tokens_per_second']:.1f}")
        table.add_row(row["kind"], str(row["streams"]), *rates, f"{row['loss']:+.1%}", spread)
    Console().print(table)
    write_results(args.out, {"model": str(args.model), "masks": masks, "rows": rows})


if __name__ == "__main__":
    main()
