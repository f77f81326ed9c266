"""The documentation lists every request parameter, and what becomes of it."""

import re
from pathlib import Path

import pytest

from server.connect.clients import CLIENTS
from server.dialects.anthropic import parameters as anthropic_parameters
from server.dialects.anthropic.schema import MessagesRequest
from server.dialects.llamacpp import parameters as llamacpp_parameters
from server.dialects.llamacpp import schema as llamacpp_schema
from server.dialects.ollama import parameters as ollama_parameters
from server.dialects.ollama import schema as ollama_schema
from server.dialects.openai.parameters import IGNORED, REFUSED
from server.dialects.openai.schema import ChatCompletionRequest, CompletionRequest
from server.dialects.responses import parameters as responses_parameters
from server.dialects.responses import store as responses_store
from server.dialects.responses.schema import ResponseRequest
from server.parameters import Body, ParameterTable
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
API = (ROOT / "API.md").read_text()
HONOURED, _, REST = API.partition("## Refused by name")
REFUSALS, _, IGNORALS = REST.partition("## Ignored")


DIALECTS: tuple[tuple[str, tuple[type[Body], ...], ParameterTable], ...] = (
    ("Anthropic", (MessagesRequest,), anthropic_parameters.PARAMETERS),
    ("llama.cpp", (llamacpp_schema.CompletionRequest, llamacpp_schema.InfillRequest), llamacpp_parameters.PARAMETERS),
    ("Ollama", (ollama_schema.ChatRequest, ollama_schema.GenerateRequest), ollama_parameters.PARAMETERS),
    ("Ollama", (ollama_schema.Options, ollama_schema.ModelRequest), ollama_parameters.OPTIONS),
    ("Responses", (ResponseRequest,), responses_parameters.PARAMETERS),
)


@pytest.mark.parametrize(("heading", "schemas", "table"), DIALECTS)
def test_every_dialect_tells_of_its_parameters(
    heading: str, schemas: tuple[type[Body], ...], table: ParameterTable
) -> None:
    section = " ".join(API.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].split())
    for schema in schemas:
        for name in schema.model_fields:
            assert f"`{name}" in section, name
    for name, reason in {**{n: r.reason for n, r in table.refused.items()}, **table.ignored}.items():
        assert re.search(rf"`{name}`(, `\w+`)* \({re.escape(reason)}\)", section), name


def test_the_limits_of_what_is_kept_are_told() -> None:
    limits = responses_store.MAX_RESPONSES, responses_store.MAX_BYTES >> 20, responses_store.KEEP_SECONDS / 3600
    assert limits == (1024, 64, 1)
    assert "1024 of them, 64 MiB of items, an hour since they were last asked" in API


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
    assert flags - known <= {"--help", "--config", "--index-url", "--parity", "--write", "--url"}


def test_the_readme_names_every_client_that_can_be_connected() -> None:
    section = (ROOT / "README.md").read_text().partition("## Point a client at it")[2].partition("\n## ")[0]
    assert [name for name in sorted(CLIENTS) if f"`{name}`" not in section] == []
