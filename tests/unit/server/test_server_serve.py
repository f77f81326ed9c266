"""`deltaloop serve` up to the point where it listens."""

import socket
from pathlib import Path
from typing import Any

import pytest

from engine import EngineConfig
from engine.errors import LoadError
from server import cli
from server.chat.model_files import read_model_files
from tests.support.scripted_engine import ScriptedEngine
from tests.support.tiny_text_model import MARKS, SPECIALS, write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Tiny-Qwen-Coder"
    folder.mkdir()
    write_tiny_model(str(folder))
    return folder


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """What the engine is loaded with; nothing is served."""
    seen: list[EngineConfig] = []

    def load(config: EngineConfig, progress: Any, vocabulary: Any) -> ScriptedEngine:
        for done in (0, 50, 100):
            progress(done, 100)
        seen.append(config)
        return ScriptedEngine()

    def run(app: Any, engine: Any, listener: socket.socket, timeout: float, on_listening: Any) -> None:
        on_listening()

    monkeypatch.setattr(cli, "load_engine", load)
    monkeypatch.setattr(cli, "run", run)
    return seen


def test_greeting(folder: Path, configs: list[EngineConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(folder), "--port", "0", "--api-key", "hush"]) == 0
    told = capsys.readouterr().err
    assert "deltaloop serves Tiny-Qwen-Coder at http://127.0.0.1:" in told
    assert "curl http://127.0.0.1:" in told
    assert '"model": "Tiny-Qwen-Coder"' in told
    assert "$DELTALOOP_API_KEY" in told
    assert "hush" not in told
    assert "loading the model" in told
    assert configs[0].model == folder
    assert configs[0].num_used_tokens == 256 + len(SPECIALS) + len(MARKS)


def test_a_port_in_use(folder: Path, configs: list[EngineConfig], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(folder), "--port", str(port)]) == 1
    complaint = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}" in complaint
    assert complaint.count("\n") == 1
    assert configs == []


def test_a_model_that_does_not_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(config: EngineConfig, progress: Any, vocabulary: Any) -> ScriptedEngine:
        raise LoadError("the model needs 80 GiB and 24 GiB are free: use a smaller one")

    monkeypatch.setattr(cli, "load_engine", load)
    assert cli.main(["serve", str(folder), "--port", "0"]) == 1
    assert capsys.readouterr().err == "deltaloop: the model needs 80 GiB and 24 GiB are free: use a smaller one\n"


def test_a_broken_template(folder: Path, configs: list[EngineConfig], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}")
    assert cli.main(["serve", str(folder), "--port", "0"]) == 1
    assert "not valid Jinja" in capsys.readouterr().err


def test_interrupted_while_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: EngineConfig, progress: Any, vocabulary: Any) -> ScriptedEngine:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_engine", load)
    assert cli.main(["serve", str(folder), "--port", "0"]) == 130


def test_strange_variables_are_told_of(
    folder: Path, configs: list[EngineConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DELTALOOP_PROT", "1")
    monkeypatch.setenv("DELTALOOP_PORT", "0")
    assert cli.main(["serve", str(folder)]) == 0
    assert "DELTALOOP_PROT means nothing" in capsys.readouterr().err


def test_the_bundled_model_is_where_the_package_is() -> None:
    assert cli.bundled_model().name == "nano"
    assert cli.bundled_model().parent.name == "engine"


def test_the_tiny_models_files_are_read_back(folder: Path) -> None:
    assert read_model_files(folder).eos_token == "<|im_end|>"
