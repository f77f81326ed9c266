"""The engine: token ids in, token ids out. Importing it does not import torch; loading a model does."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.config import EngineConfig
from engine.model.gguf_config import gguf_end_tokens, read_gguf_metadata
from engine.types import Vocabulary
from engine.weights.gguf_file import is_gguf
from engine.weights.gguf_metadata import GgufMetadata

if TYPE_CHECKING:
    from engine.async_engine import AsyncEngine
    from engine.loading import LoadProgress

__all__ = ["EngineConfig", "GgufMetadata", "gguf_end_tokens", "is_gguf", "load_engine", "read_gguf_metadata"]


def load_engine(
    config: EngineConfig,
    progress: "LoadProgress | None" = None,
    vocabulary: Callable[[], Vocabulary] | None = None,
) -> "AsyncEngine":
    """Load a model and make the engine that serves it; see `engine.loading.load_engine`."""
    from engine.loading import load_engine as load

    return load(config, progress, vocabulary)
