"""Agents' conversations against any OpenAI server: what a turn waits, and what it has the server read again.

    python -m benchmarks.agent_loop --url http://127.0.0.1:8000 [--shapes plain,side,edit,tools] [--turns 8,20,40]
        [--agents 1,6] [--message-tokens 200] [--answer-tokens 40] [--out results.json]

A conversation grows by a message and an answer each turn and is sent whole. Shapes: `plain`; `side` asks for a title
between turns, in a conversation of its own; `edit` changes an earlier message at every third turn; `tools` offers tools
and sends the calls back, as the model wrote them or, where it wrote none, as some client would; `reserialised` sends
them back with other key order, spaces and `null` content.

"Again" is what the server computed of prompts beyond what is new in them (`usage.prompt_tokens_details`), the most of
any turn; after an edit everything behind the edited message is new.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.writing import write_results

SHAPES = ("plain", "side", "edit", "tools", "reserialised")
EDIT_EVERY = 3
TIMEOUT_SECONDS = 3600.0
WORDS = ("file", "test", "value", "return", "error", "class", "import", "list", "read", "write", "path", "line", "node")
SYSTEM_WORDS = 400
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "first_line": {"type": "integer"}},
            "required": ["path"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer. `new_tokens` of the prompt had not been sent before; None where that is not known."""

    seconds_to_first_token: float
    num_prompt_tokens: int
    num_cached_tokens: int
    num_answer_tokens: int
    new_tokens: int | None

    @property
    def num_read_tokens(self) -> int:
        return self.num_prompt_tokens - self.num_cached_tokens

    @property
    def num_read_again(self) -> int:
        return self.num_read_tokens - self.new_tokens if self.new_tokens is not None else 0


@dataclass
class Agent:
    """One conversation. `ends` are the tokens of prompt and answer together, after each turn."""

    client: httpx.AsyncClient
    args: argparse.Namespace
    shape: str
    rng: random.Random
    messages: list[dict[str, Any]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # where in the messages each turn's own begins
    turns: list[Turn] = field(default_factory=list)

    async def run(self, num_turns: int) -> list[Turn]:
        self.messages.append({"role": "system", "content": self._words(SYSTEM_WORDS)})
        for turn in range(num_turns):
            known = self._edit(turn) if self.shape == "edit" else None
            self._say(turn)
            await self._ask(known)
            if self.shape == "side":
                await self._ask_for_title()
        return self.turns

    def _say(self, turn: int) -> None:
        """The client's part of a turn: a tool's result where one was called, and a question."""
        self.starts.append(len(self.messages))
        calls = self.messages[-1].get("tool_calls") or ()
        for call in calls:
            content = self._words(self.args.message_tokens)
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        if not calls:
            self.messages.append({"role": "user", "content": f"{turn}: {self._words(self.args.message_tokens)}"})

    def _edit(self, turn: int) -> int | None:
        """Change what was said some turns ago; the tokens that still stand before it."""
        if turn < EDIT_EVERY or turn % EDIT_EVERY:
            return None
        edited = turn - 2
        self.messages[self.starts[edited]]["content"] = f"edited: {self._words(self.args.message_tokens)}"
        return self.ends[edited - 1] if edited else 0

    async def _ask(self, known: int | None) -> None:
        tools = [TOOL] if self.shape in ("tools", "reserialised") else None
        answer, turn = await self._complete(self.messages, self.args.answer_tokens, tools)
        before = known if known is not None else self.ends[-1] if self.ends else None
        new = turn.num_prompt_tokens - before if before is not None else None
        self.turns.append(Turn(**{**asdict(turn), "new_tokens": new}))
        self.ends.append(turn.num_prompt_tokens + turn.num_answer_tokens)
        if tools and not answer.get("tool_calls"):
            answer["tool_calls"] = [_made_up_call(len(self.turns))]
            self.ends[-1] = turn.num_prompt_tokens  # the answer that is sent back is another one
        self.messages.append(self._sent_back(answer) if tools else answer)

    def _sent_back(self, answer: dict[str, Any]) -> dict[str, Any]:
        if self.shape == "tools":
            return answer
        calls = []
        for call in answer["tool_calls"]:
            function = {"arguments": _written_anew(call["function"]["arguments"]), "name": call["function"]["name"]}
            calls.append({"function": function, "type": "function", "id": call["id"]})
        return {"tool_calls": calls, "content": answer["content"] or None, "role": "assistant"}

    async def _ask_for_title(self) -> None:
        messages = [
            {"role": "system", "content": "Give this conversation a title of at most six words."},
            {"role": "user", "content": str(self.messages[-2]["content"])},
        ]
        await self._complete(messages, 8, None)

    async def _complete(
        self, messages: list[dict[str, Any]], num_tokens: int, tools: list[dict[str, Any]] | None
    ) -> tuple[dict[str, Any], Turn]:
        body = {
            "messages": messages,
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"model": self.args.model} if self.args.model else {}),
            **({"tools": tools} if tools else {}),
        }
        started, first = time.perf_counter(), None
        content, calls, usage = "", dict[int, dict[str, Any]](), dict[str, Any]()
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    delta = choice["delta"]
                    if first is None and (delta.get("content") or delta.get("tool_calls")):
                        first = time.perf_counter() - started
                    content += delta.get("content") or ""
                    for part in delta.get("tool_calls") or ():
                        _add_call(calls, part)
        answer: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            answer["tool_calls"] = list(calls.values())
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        waited = time.perf_counter() - started if first is None else first
        return answer, Turn(waited, usage.get("prompt_tokens", 0), cached, usage.get("completion_tokens", 0), None)

    def _words(self, count: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=count))


def _written_anew(arguments: str) -> str:
    """The same JSON in other words; what is none, because the answer was cut off, stays."""
    try:
        return json.dumps(dict(reversed(json.loads(arguments or "{}").items())), indent=2)
    except ValueError:
        return arguments


def _made_up_call(turn: int) -> dict[str, Any]:
    function = {"name": "read_file", "arguments": json.dumps({"path": f"file{turn}.py", "first_line": turn})}
    return {"id": f"call_{turn}", "type": "function", "function": function}


def _add_call(calls: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """A piece of a streamed call."""
    empty = {"id": part.get("id"), "type": "function", "function": {"name": "", "arguments": ""}}
    function = calls.setdefault(part["index"], empty)["function"]
    function["name"] += part["function"].get("name") or ""
    function["arguments"] += part["function"].get("arguments") or ""


@dataclass(frozen=True, slots=True)
class Result:
    """All turns of all agents of one shape."""

    shape: str
    num_turns: int
    num_agents: int
    turns: list[list[Turn]]

    def cells(self) -> list[str]:
        later = [turn for turns in self.turns for turn in turns[1:]]
        first = statistics.median(turns[0].seconds_to_first_token for turns in self.turns)
        return [
            self.shape,
            str(self.num_turns),
            str(self.num_agents),
            self._told(f"{max(turn.num_prompt_tokens for turn in later)}"),
            f"{first:.2f} s",
            f"{statistics.median(turn.seconds_to_first_token for turn in later):.2f} s",
            self._told(f"{statistics.median(turn.num_read_tokens for turn in later):.0f}"),
            self._told(f"{max(turn.num_read_again for turn in later)}"),
        ]

    def _told(self, figure: str) -> str:
        """Some servers say nothing of tokens while they stream."""
        return figure if any(turn.num_prompt_tokens for turns in self.turns for turn in turns) else "?"


async def measure(args: argparse.Namespace, shape: str, num_turns: int, num_agents: int) -> Result:
    """Let the agents converse, all at once."""
    async with httpx.AsyncClient(base_url=args.url, timeout=TIMEOUT_SECONDS, headers=_headers(args)) as client:
        name = f"{shape} {num_turns} {num_agents} {args.seed}"
        agents = [Agent(client, args, shape, random.Random(f"{name} {i}")) for i in range(num_agents)]
        return Result(shape, num_turns, num_agents, await asyncio.gather(*(agent.run(num_turns) for agent in agents)))


def _headers(args: argparse.Namespace) -> dict[str, str]:
    return {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="the name to ask for; many servers take any")
    parser.add_argument("--api-key")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--turns", default="8,20,40")
    parser.add_argument("--agents", default="1,6")
    parser.add_argument("--message-tokens", type=int, default=200, help="words of each new message, a token each or so")
    parser.add_argument("--answer-tokens", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="another one makes other conversations")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/agent_loop.json"))
    args = parser.parse_args()
    table = Table(*("shape", "turns", "agents", "longest prompt", "first turn", "later turns", "read", "read again"))
    results = []
    for shape in args.shapes.split(","):
        for num_turns in map(int, args.turns.split(",")):
            for num_agents in map(int, args.agents.split(",")):
                results.append(asyncio.run(measure(args, shape, num_turns, num_agents)))
                table.add_row(*results[-1].cells())
                print(" ".join(results[-1].cells()), flush=True)
    Console().print(table)
    write_results(args.out, {"url": args.url, "results": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
