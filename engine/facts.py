"""`model_facts`: what there is to tell of a model that is loaded.

Knows its files and matrices, nothing of the engine.
"""

from collections import Counter
from collections.abc import Sequence

from engine.client import ModelFacts
from engine.identity import files_identity
from engine.model.gguf_config import GGUF_ARCHITECTURE
from engine.quant.matrix import Matrix
from engine.weights.checkpoint import Checkpoint
from engine.weights.gguf_file import is_gguf


def model_facts(checkpoint: Checkpoint, matrices: Sequence[Matrix]) -> ModelFacts:
    """What there is to tell of a model that is loaded."""
    config = checkpoint.config
    bytes_in: Counter[str] = Counter()
    for matrix in matrices:
        bytes_in[matrix.format.name] += matrix.num_bytes
    return ModelFacts(
        architecture=GGUF_ARCHITECTURE,
        container="gguf" if is_gguf(checkpoint.paths[0]) else "safetensors",
        weight_format=bytes_in.most_common(1)[0][0],
        fingerprint=files_identity(checkpoint.paths),
        modified=max(path.stat().st_mtime for path in checkpoint.paths),
        num_bytes=checkpoint.num_bytes,
        num_parameters=config.num_parameters,
        num_trained_positions=config.max_position_embeddings,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        num_experts=config.num_experts,
        num_experts_per_tok=config.num_experts_per_tok,
    )
