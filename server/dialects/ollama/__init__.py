"""The Ollama dialect: chats and prompts streamed as lines of JSON, and what its clients ask to know the model."""

from typing import Any

from server.dialect import Dialect, begins_with
from server.dialects.ollama.answer_schema import Failure
from server.dialects.ollama.routes import ollama_router
from server.errors import ApiError


def _error_body(error: ApiError) -> dict[str, Any]:
    return {"error": error.message}


OLLAMA = Dialect(ollama_router, begins_with("/api"), _error_body, Failure)
