"""`deltaloop doctor`: says whether this machine and model keep the promise."""

import asyncio
import inspect

from rich.table import Table

from server import parity
from server.chat.conversation import Conversation, Message
from server.daemon import StartableEngine
from server.model import ServedModel
from server.parity import Finding, check_parity
from server.prompts import Prompt, PromptEncoder


def run_parity(engine: StartableEngine, model: ServedModel) -> list[Finding]:
    """Start the engine, check it, close it."""

    async def check() -> list[Finding]:
        prompt = await _prompt(engine, model)
        await engine.start()
        try:
            return await check_parity(engine, prompt.ids, prompt.boundaries)
        finally:
            await engine.close()

    return asyncio.run(check())


async def _prompt(engine: StartableEngine, model: ServedModel) -> Prompt:
    """Some code to read, as agents send it; cut where the context is small."""
    encoder, code = PromptEncoder(model), inspect.getsource(parity)
    if model.template is None:
        [prompt] = await encoder.raw([code])
    else:
        messages = (Message("system", "You are a coding agent."), Message("user", f"Explain:\n\n{code}"))
        prompt = await encoder.chat(Conversation(messages))
    room = engine.info.max_model_len // 3
    return Prompt(prompt.ids[:room], tuple(end for end in prompt.boundaries if end <= room))


def parity_table(findings: list[Finding]) -> Table:
    """For people."""
    table = Table("computed", "prompt", "from the cache", "tokens", "log-probabilities")
    for finding in findings:
        sameness = ["the same" if same else "DIFFERENT" for same in (finding.same_tokens, finding.same_logprobs)]
        table.add_row(finding.way, str(finding.num_prompt_tokens), str(finding.num_cached_tokens), *sameness)
    return table
