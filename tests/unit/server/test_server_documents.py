"""The documentation lists every request parameter, and what becomes of it."""

from pathlib import Path

import pytest

from server.dialects.openai.parameters import IGNORED, REFUSED
from server.dialects.openai.schema import ChatCompletionRequest, CompletionRequest
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
API = (ROOT / "API.md").read_text()
HONOURED, _, REST = API.partition("## Refused by name")
REFUSALS, _, IGNORALS = REST.partition("## Ignored")


@pytest.mark.parametrize("name", sorted({**ChatCompletionRequest.model_fields, **CompletionRequest.model_fields}))
def test_honoured_parameters_are_listed(name: str) -> None:
    assert f"`{name}`" in HONOURED


def test_refused_parameters_are_listed_with_their_reason() -> None:
    for name, refusal in REFUSED.items():
        assert f"| `{name}` | {refusal.reason} |" in REFUSALS


def test_ignored_parameters_are_listed_with_their_reason() -> None:
    for name, reason in IGNORED.items():
        assert f"| `{name}` | {reason} |" in IGNORALS


def test_the_readme_names_only_options_that_exist() -> None:
    words = (ROOT / "README.md").read_text().replace("`", " ").replace("'", " ").split()
    flags = {word.strip(".,;)") for word in words if word.startswith("--")}
    known = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    assert flags - known <= {"--help", "--config", "--index-url", "--model", "--auth-type", "--parity"}
