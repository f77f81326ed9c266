"""The response object: what a request asked for, and what has become of it.

Knows JSON values, no events and no HTTP.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from engine.types import SamplingParams
from server.dialects.responses.schema import ResponseRequest
from server.generation import TokenCounts


class ResponseObject:
    """One response, from its beginning on."""

    def __init__(self, body: ResponseRequest, model: str, sampling: SamplingParams) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self._members: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata,
            "model": model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": None,
            "service_tier": "default",
            "store": body.store,
            "temperature": sampling.temperature,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
            "tools": body.tools,
            "top_logprobs": body.top_logprobs,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": None,
        }

    def as_of_now(
        self, status: str = "in_progress", output: Sequence[dict[str, Any]] = (), failure: str | None = None
    ) -> dict[str, Any]:
        """While it is being answered, or where that broke off. Of the codes on OpenAI's list one fits a failure."""
        error = None if failure is None else {"code": "server_error", "message": failure}
        return {**self._members, "status": status, "output": output, "error": error}

    def finished(self, output: Sequence[dict[str, Any]], counts: TokenCounts, is_complete: bool) -> dict[str, Any]:
        """At its end, or where it was cut off."""
        how: dict[str, Any] = {"status": "completed", "completed_at": int(time.time())}
        if not is_complete:
            how = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        return {**self._members, **how, "output": output, "usage": _usage(counts)}


def _usage(counts: TokenCounts) -> dict[str, Any]:
    return {
        "input_tokens": counts.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.num_generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.num_prompt_tokens + counts.num_generated_tokens,
    }
