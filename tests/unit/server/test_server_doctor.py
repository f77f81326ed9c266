"""`deltaloop doctor --parity`: it says so when answers are the same, and when they are not."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import EngineConfig
from engine.types import GenerationRequest
from server import cli
from server.parity import NUM_TOKENS, Finding, check_parity
from tests.support.scripted_engine import ScriptedEngine, Step, say
from tests.support.tiny_text_model import write_tiny_model

PROMPT = tuple(range(40))


def findings(engine: ScriptedEngine) -> list[Finding]:
    return asyncio.run(check_parity(engine, PROMPT, (10, 30)))


def fickle(request: GenerationRequest) -> Iterator[Step]:
    """Another answer for a prompt that is read in company."""
    return iter(say("other" * 10 if request.cache_salt == "parity/among" else "Hello" * 10)(request))


def test_the_same_answers() -> None:
    engine = ScriptedEngine(say("Hello" * 10, cached=7))
    found = findings(engine)
    assert len(found) == 8
    assert all(finding.same_tokens and finding.same_logprobs for finding in found)
    assert {finding.num_cached_tokens for finding in found} == {7}
    assert not engine.running
    asked = [request for request in engine.requests if request.request_id == "parity"]
    assert {request.sampling.max_tokens for request in asked} == {NUM_TOKENS}
    assert {request.prompt_ids[: len(PROMPT)] for request in asked} == {PROMPT}
    salts = [request.cache_salt for request in asked]
    assert salts.count("parity/alone") == 3
    assert salts.count("parity/again") == 1


def test_other_answers_in_company() -> None:
    found = findings(ScriptedEngine(fickle))
    assert [finding.way for finding in found if not finding.same_tokens] == ["among others", "a next turn among others"]


@pytest.mark.parametrize(("script", "code", "says"), [(say("Hello" * 10), 0, "the same"), (fickle, 1, "DIFFERENT")])
def test_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: Callable[[GenerationRequest], Iterator[Step]],
    code: int,
    says: str,
) -> None:
    def load(config: EngineConfig, progress: Any, vocabulary: Any) -> ScriptedEngine:
        assert config.model == tmp_path
        return ScriptedEngine(script)

    write_tiny_model(str(tmp_path))
    monkeypatch.setattr(cli, "load_engine", load)
    assert cli.main(["doctor", "--parity", str(tmp_path)]) == code
    assert says in capsys.readouterr().out


def test_what_to_check_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor"])
    assert caught.value.code == 2
    assert "--parity" in capsys.readouterr().err
