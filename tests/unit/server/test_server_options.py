"""Options from flags, environment and file, and what is said when one is wrong."""

from pathlib import Path
from typing import Any

import pytest

from server.auth import read_keys
from server.cli import engine_config, main, make_parser
from server.model import default_names
from server.options import OptionError, load_settings, option_of
from server.settings import Settings, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 2**30),
        ("512MB", 512 * 10**6),
        ("1.5 kib", 1536),
        ("1073741824", 2**30),
        ("7b", 7),
        (5, 5),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8Gi", "lots", "-1GB", "", "8 G"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="512MB"):
        parse_size(text)


def flags(*words: str) -> dict[str, Any]:
    return vars(make_parser().parse_args(["serve", *words]))


def test_flags_win_over_variables_and_those_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('port = 1\nhost = "file"\nlog-level = "debug"\nkv_cache_memory_bytes = "1GiB"\n')
    environment = {"DELTALOOP_PORT": "2", "DELTALOOP_HOST": "variable"}
    settings = load_settings(flags("--port", "3", "--config", str(config)), environment)
    assert (settings.port, settings.host, settings.log_level) == (3, "variable", "debug")
    assert settings.kv_cache_memory_bytes == 2**30


def test_yaml(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("served-model-name: [a, b]\nprotect_metrics: true\n")
    settings = load_settings({}, {"DELTALOOP_CONFIG": str(config)})
    assert settings.served_model_name == ("a", "b")
    assert settings.protect_metrics


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert load_settings({"config": tmp_path / "config.yaml"}, {}) == Settings()


def test_lists_repeat_and_split() -> None:
    settings = load_settings(flags("--api-key", "a,b", "--api-key", "c", "--served-model-name", "x, y"), {})
    assert [key.get_secret_value() for key in settings.api_key] == ["a", "b", "c"]
    assert settings.served_model_name == ("x", "y")
    assert "a" not in repr(settings.api_key)


@pytest.mark.parametrize(
    ("flag", "name"), [("--ctx-size", "max_model_len"), ("--parallel", "max_num_seqs"), ("--threads", "threads")]
)
def test_aliases_and_auto(flag: str, name: str) -> None:
    assert getattr(load_settings(flags(flag, "7"), {}), name) == 7
    assert getattr(load_settings(flags(flag, "auto"), {}), name) is None


def test_switches() -> None:
    assert load_settings(flags("--protect-metrics"), {}).protect_metrics
    assert not load_settings(flags("--no-protect-metrics"), {"DELTALOOP_PROTECT_METRICS": "1"}).protect_metrics


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        (["--port", "x"], {}, '--port must be a whole number, not "x"'),
        (["--port", "70000"], {}, '--port must be less than or equal to 65535, not "70000"'),
        (["--device", "tpu"], {}, "--device must be one of 'auto', 'cpu', 'cuda'"),
        (["--kv-cache-memory-bytes", "8Gx"], {}, "--kv-cache-memory-bytes must be a number of bytes, or a size"),
        (["--gpu-memory-utilization", "1.5"], {}, "--gpu-memory-utilization must be less than or equal to 1"),
        (["--max-num-seqs", "0"], {}, "--max-num-seqs must be greater than or equal to 1"),
        ([], {"DELTALOOP_LOG_LEVEL": "loud"}, "DELTALOOP_LOG_LEVEL must be one of"),
        (["--api-key", ""], {}, "--api-key must have at least 1"),
        ([], {"DELTALOOP_API_KEY": ""}, "DELTALOOP_API_KEY must have at least 1"),
        (["--config", "/nowhere/c.toml"], {}, "--config: cannot read /nowhere/c.toml: No such file"),
    ],
)
def test_complaints(words: list[str], environment: dict[str, str], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        load_settings(flags(*words), environment)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.toml", "prot = 1", "there is no option prot; did you mean port?"),
        ("c.toml", "port = ", "is not valid"),
        ("c.yaml", "port: [", "is not valid"),
        ("c.yaml", "- port", "must hold a table"),
        ("c.yaml", "port: many", "c.yaml: port must be a whole number"),
    ],
)
def test_complaints_about_files(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OptionError) as caught:
        load_settings({"config": tmp_path / name}, {})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_key_is_not_repeated() -> None:
    with pytest.raises(OptionError) as caught:
        load_settings({"api_key": [12345]}, {})
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--prot", "1"], "there is no option --prot; did you mean --port?"),
        (["serve", "--frobnicate=secret"], "there is no option --frobnicate; see deltaloop serve --help"),
        (["serve", "a", "b"], "serve takes one MODEL"),
        (["serve", "--port", "x"], "--port must be a whole number"),
        (["serve", "--api-key-file", "/nowhere"], "--api-key-file: "),
    ],
)
def test_misuse_is_one_line_and_exit_code_two(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1
    assert "secret" not in complaint


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--port"]])
def test_misuse_of_the_grammar(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert name == "model" or f"--{name.replace('_', '-')}" in text
        assert option_of(field).help.split(";")[0] in text


def test_a_model_that_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "gone")]) == 1
    complaint = capsys.readouterr().err
    assert "gone is not a folder" in complaint
    assert complaint.count("\n") == 1


def test_a_key_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nfirst\n\nsecond\n")
    assert read_keys(Settings(api_key_file=tmp_path / "keys"))
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(ValueError, match="holds no key"):
        read_keys(Settings(api_key_file=tmp_path / "keys"))


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        (None, ("qwen3-coder-nano",)),
        ("/models/Qwen3-Coder-Next-FP8", ("Qwen3-Coder-Next-FP8",)),
        ("/models/mine", ("qwen3-coder-next", "mine")),
    ],
)
def test_default_names(folder: str | None, names: tuple[str, ...]) -> None:
    assert default_names(Path(folder) if folder else None) == names


def test_the_engines_part(tmp_path: Path) -> None:
    settings = load_settings(flags("--ctx-size", "1000", "--max-inter-token-gap", "0.5", "--device", "cpu"), {})
    config = engine_config(settings, tmp_path, 300)
    assert (config.model, config.device, config.max_model_len) == (tmp_path, "cpu", 1000)
    assert (config.max_inter_token_gap_seconds, config.num_used_tokens, config.seed) == (0.5, 300, None)
