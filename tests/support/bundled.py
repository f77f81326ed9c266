"""The bundled model, where a checkout has it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "engine" / "nano"

needs_bundled_model = pytest.mark.skipif(
    not (FOLDER / "model.safetensors").exists(), reason="the bundled model is still being trained: see training/"
)
