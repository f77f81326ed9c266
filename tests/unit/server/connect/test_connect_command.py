"""The command as a user gives it: what it asks, prints and writes."""

import http.server
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.cli import main
from server.connect.clients import CLIENTS

MODEL = ["--model", "qwen3-coder-test", "--context", "100000"]
KEY = "sk-12345678"
CARD = {"id": "qwen3-coder-asked", "max_model_len": 5000}


PLACES = [
    "XDG_CONFIG_HOME",
    "CODEX_HOME",
    "CLAUDE_CONFIG_DIR",
    "QWEN_HOME",
    "OPENCODE_CONFIG",
    "CLINE_DIR",
    "CLINE_DATA_DIR",
    "CLINE_PROVIDER_SETTINGS_PATH",
    "CONTINUE_GLOBAL_DIR",
    "MSWEA_GLOBAL_CONFIG_DIR",
    "DELTALOOP_API_KEY",
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    return tmp_path


class _Server(http.server.BaseHTTPRequestHandler):
    answer = (200, json.dumps({"data": [CARD]}))
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Server]]]:
    handler = type("Handler", (_Server,), {"asked": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", handler
        listening.shutdown()
        thread.join()


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("client", CLIENTS)
def test_printing_writes_nothing_and_shows_no_key(client: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", client, *MODEL, "--api-key", KEY]) == 0
    out, err = capsys.readouterr()
    assert "qwen3-coder-test" in out
    assert KEY not in out + err
    assert "YOUR_KEY" in out + err
    assert str(home) in err
    assert not tree(home)


@pytest.mark.parametrize("client", CLIENTS)
def test_writing_twice_changes_nothing(client: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", client, *MODEL, "--write", "--api-key", KEY]) == 0
    written = tree(home)
    assert any("qwen3-coder-test" in text for text in written.values())
    assert not any(".bak-" in name for name in written)
    first = capsys.readouterr()
    assert main(["connect", client, *MODEL, "--write", "--api-key", KEY]) == 0
    assert tree(home) == written
    second = capsys.readouterr()
    assert second.err.count("unchanged: ") == len(written)
    assert KEY not in first.out + first.err + second.out + second.err
    for name, text in written.items():
        mode = stat.S_IMODE((home / name).stat().st_mode)
        assert (mode == 0o600) == (KEY in text)


def test_what_was_there_is_kept_beside(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('# mine\nmodel = "o3"\n')
    path.chmod(0o640)
    assert main(["connect", "codex", *MODEL, "--write"]) == 0
    [backup] = path.parent.glob("config.toml.bak-*")
    assert backup.read_text() == '# mine\nmodel = "o3"\n'
    assert path.read_text().startswith('# mine\nmodel = "qwen3-coder-test"\n')
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert str(backup) in capsys.readouterr().err
    assert main(["connect", "codex", "--model", "b", "--context", "9", "--write", "--api-key", KEY]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(path.parent.iterdir())) == 3  # two backups, though made within a second


def test_a_file_of_the_right_words_becomes_private(home: Path) -> None:
    assert main(["connect", "codex", *MODEL, "--write", "--api-key", KEY]) == 0
    path = home / ".codex" / "config.toml"
    path.chmod(0o644)
    assert main(["connect", "codex", *MODEL, "--write", "--api-key", KEY]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_a_key_does_not_outlive_its_server(client: str, home: Path) -> None:
    assert main(["connect", client, *MODEL, "--write", "--api-key", KEY]) == 0
    assert main(["connect", client, *MODEL, "--write"]) == 0
    files = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in files if ".bak-" not in path.name and KEY in path.read_text()]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files if KEY in path.read_text())


def test_the_copy_of_a_private_file_is_private(home: Path) -> None:
    """It was readable for all, and may have had a key in it too."""
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('model = "o3"\n')
    path.chmod(0o644)
    assert main(["connect", "codex", *MODEL, "--write", "--api-key", KEY]) == 0
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(home: Path) -> None:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('model = "o3"\n')
    os.chown(path, 1234, 5678)
    assert main(["connect", "codex", *MODEL, "--write"]) == 0
    assert {(file.stat().st_uid, file.stat().st_gid) for file in path.parent.iterdir()} == {(1234, 5678)}


def test_a_link_stays_one(home: Path) -> None:
    (home / "dotfiles").mkdir()
    (home / "dotfiles" / "zed.json").write_text("// mine\n{}\n")
    (home / ".config" / "zed").mkdir(parents=True)
    link = home / ".config" / "zed" / "settings.json"
    link.symlink_to(home / "dotfiles" / "zed.json")
    assert main(["connect", "zed", *MODEL, "--write"]) == 0
    assert link.is_symlink()
    assert (home / "dotfiles" / "zed.json").read_text().startswith("// mine\n{\n")


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b'{"env": 1}', b"[]"], ids=str)
def test_a_file_that_cannot_be_merged_is_left_alone(
    content: bytes, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert main(["connect", "claude-code", *MODEL, "--write", "--api-key", KEY]) == 1
    assert path.read_bytes() == content
    assert len(list(path.parent.iterdir())) == 1
    out, err = capsys.readouterr()
    assert f"left alone: {path}: " in err
    assert json.loads(out)["env"]["ANTHROPIC_AUTH_TOKEN"] == "YOUR_KEY"
    assert KEY not in err


def test_a_place_that_cannot_be_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".codex").write_text("a file, no folder")
    assert main(["connect", "codex", *MODEL, "--write"]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_the_server_is_asked(server: tuple[str, type[_Server]], capsys: pytest.CaptureFixture[str]) -> None:
    url, handler = server
    assert main(["connect", "codex", "--url", f"{url}/v1/", "--api-key", KEY]) == 0
    out = capsys.readouterr().out
    assert 'model = "qwen3-coder-asked"' in out
    assert "model_context_window = 5000" in out
    assert f'base_url = "{url}/v1"' in out
    assert handler.asked == [("/v1/models", f"Bearer {KEY}")]


def test_what_is_given_is_not_asked(server: tuple[str, type[_Server]], capsys: pytest.CaptureFixture[str]) -> None:
    url, handler = server
    assert main(["connect", "codex", "--url", url, "--context", "77"]) == 0
    assert "model_context_window = 77" in capsys.readouterr().out
    assert main(["connect", "codex", "--url", url, *MODEL]) == 0
    assert handler.asked == [("/v1/models", None)]


def test_a_name_that_is_not_served(server: tuple[str, type[_Server]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "codex", "--url", server[0], "--model", "other"]) == 1
    assert "serves qwen3-coder-asked, not other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (401, "{}", "--api-key"),
        (404, "<html>", "is it deltaloop?"),
        (200, "<html>", "is it deltaloop?"),
        (200, '{"data": 5}', "is it deltaloop?"),
        (200, '{"data": []}', "is it deltaloop?"),
        (200, '{"data": [{"id": 1}]}', "is it deltaloop?"),
        (200, '{"data": [{"id": "m"}]}', "--context"),
        (200, '{"data": [{"id": "m", "max_model_len": true}]}', "--context"),
        (200, "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), "is it deltaloop?"),
    ],
)
def test_a_strange_server(
    server: tuple[str, type[_Server]], status: int, body: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server[1].answer = (status, body)
    assert main(["connect", "codex", "--url", server[0]]) == 1
    out, err = capsys.readouterr()
    assert hint in err
    assert not out


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "codex", "--url", "http://127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("deltaloop: nobody answers at http://127.0.0.1:1 (Connection refused)")
    assert "--model and --context" in err


def test_the_key_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTALOOP_API_KEY", f"{KEY}, another")  # the server's own variable may list several
    assert main(["connect", "codex", *MODEL, "--write"]) == 0
    assert f'x-api-key = "{KEY}"' in (home / ".codex" / "config.toml").read_text()


@pytest.mark.parametrize("key", ["a b", "$HOME", "{env:X}", "ä", "a\nb"])
def test_a_key_that_files_would_twist(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "codex", *MODEL, "--api-key", key]) == 1
    err = capsys.readouterr().err
    assert "--api-key" in err
    assert key not in err


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8000", "http://", "http://x:y", "http://a@b", "http://x?y", ""])
def test_an_address_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "codex", *MODEL, "--url", url]) == 1
    assert "--url must be like" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody"], "invalid choice: 'nobody'"),
        (["codex", "--context", "0"], "number of tokens"),
        (["codex", "--context", "9" * 5000], "number of tokens"),
    ],
)
def test_what_the_parser_refuses(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["connect", *arguments])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stranger", "complaint"), [("--secret=x", "no option --secret"), ("zed", "one CLIENT")], ids=str
)
def test_strangers(stranger: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "codex", stranger]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert "=x" not in err
