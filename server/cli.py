"""The `deltaloop` command. Reads options, loads the model, runs the daemon; each of these lives elsewhere.

Exit codes: 0 done or stopped as asked, 1 could not, 2 an option is wrong, 130 interrupted.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from engine import EngineConfig, load_engine
from engine.errors import LoadError
from server.app import create_app
from server.auth import ApiKeys, read_keys
from server.chat.template import TemplateError
from server.connect.command import add_arguments, connect
from server.connect.endpoint import ConnectError
from server.daemon import StartableEngine, open_socket, run
from server.doctor import parity_table, run_parity
from server.health import daemon_version
from server.logs import configure_logging
from server.model import ServedModel, default_names, read_files, served_model
from server.options import OptionError, add_options, load_settings, refuse_strangers, unknown_variables
from server.settings import Settings

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130
_EPILOG = (
    "Every option can also be given as an environment variable, DELTALOOP_PORT=8080, or in the file of --config, "
    "port = 8080. Flags win over variables, variables over the file."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    known, strangers = make_parser().parse_known_args(arguments)
    if known.command == "connect":
        return _connect(known, strangers)
    try:
        refuse_strangers(strangers)
        settings = load_settings(vars(known), os.environ)
        keys = read_keys(settings)
    except OptionError as error:
        return _complain(str(error), _MISUSED)
    except (OSError, ValueError) as error:
        return _complain(f"--api-key-file: {error}", _MISUSED)
    for name in unknown_variables(os.environ):
        _say(f"warning: the variable {name} means nothing to deltaloop")
    try:
        return _doctor(settings) if known.command == "doctor" else _serve(settings, keys)
    except (LoadError, TemplateError) as error:
        return _complain(str(error), _FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(_MISUSED, f"deltaloop: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = _Parser(
        prog="deltaloop", description="Serve Qwen3-Coder-Next to coding agents and editors.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"deltaloop {daemon_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    usual: dict[str, Any] = {
        "allow_abbrev": False,
        "formatter_class": lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    }
    serve = commands.add_parser(
        "serve",
        help="serve a model over an OpenAI-compatible API",
        description="Serve a model over an OpenAI-compatible API.",
        epilog=_EPILOG,
        usage="deltaloop serve [MODEL] [options]",
        **usual,
    )
    add_options(serve)
    doctor = commands.add_parser(
        "doctor",
        help="check whether this machine and model keep what is promised",
        description="Computes one prompt in several ways and tells whether the answers are the same. Exit code 1: not.",
        epilog="Options are those of serve.",
        usage="deltaloop doctor --parity [MODEL] [options]",
        **usual,
    )
    doctor.add_argument("--parity", action="store_true", required=True, help="alone, cached, in company, in chunks")
    add_options(doctor)
    connecting = commands.add_parser(
        "connect",
        help="print a client's configuration, or put it in place",
        description="Prints what a client's files need so that it uses this server; with --write, puts it there.",
        usage="deltaloop connect CLIENT [--write] [options]",
        **usual,
    )
    add_arguments(connecting)
    return parser


def engine_config(settings: Settings, model: Path, num_used_tokens: int | None) -> EngineConfig:
    """The engine's part of the settings."""
    return EngineConfig(
        model=model,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        packing=settings.packing,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_running_per_key=settings.max_running_per_key,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
        cache_ram_bytes=settings.cache_ram_bytes,
        cache_dir=settings.cache_dir,
        cache_disk_bytes=settings.cache_disk_bytes,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        threads=settings.threads,
        seed=settings.seed,
        max_num_queued_reqs=settings.max_num_queued_reqs,
        max_num_queued_tokens=settings.max_num_queued_tokens,
        max_inter_token_gap_seconds=settings.max_inter_token_gap,
        num_used_tokens=num_used_tokens,
    )


def _serve(settings: Settings, keys: ApiKeys) -> int:
    configure_logging(settings.log_level)
    signal.signal(signal.SIGTERM, _terminate)
    model = _text_side(settings)
    try:
        listener = open_socket(settings.host, settings.port)
    except OSError as error:
        reason = error.strerror or error
        return _complain(f"cannot listen on {settings.host} port {settings.port}: {reason}; try --port", _FAILED)
    with listener:
        engine = _load(settings, model)
        info = engine.info
        _say(f"{info.device}, {info.dtype}, contexts of {info.max_model_len} tokens\n{info.memory_plan}\n")
        app = create_app(engine, settings, model, keys)
        try:
            run(
                app,
                engine,
                listener,
                settings.shutdown_timeout,
                on_listening=lambda: _say(greeting(listener, model, bool(keys))),
            )
        finally:
            app.state.service.history.close()
    return 0


def _connect(known: argparse.Namespace, strangers: Sequence[str]) -> int:
    if strangers:
        flag = next((item.partition("=")[0] for item in strangers if item.startswith("-")), None)
        what = f"there is no option {flag}" if flag else "it takes one CLIENT, but there are more words"
        return _complain(f"connect: {what}; see deltaloop connect --help", _MISUSED)
    try:
        return 0 if connect(known, os.environ) else _FAILED
    except ConnectError as error:
        return _complain(str(error), _FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)


def _doctor(settings: Settings) -> int:
    configure_logging(settings.log_level)
    model = _text_side(settings)
    with tempfile.TemporaryDirectory(prefix="deltaloop-doctor-") as folder:
        findings = run_parity(_load(settings.model_copy(update={"cache_dir": Path(folder)}), model), model)
    Console().print(parity_table(findings))
    return 0 if all(finding.same_tokens and finding.same_logprobs for finding in findings) else _FAILED


def _text_side(settings: Settings) -> ServedModel:
    files = read_files(settings.model or bundled_model())
    return served_model(files, settings.served_model_name or default_names(settings.model))


def _load(settings: Settings, model: ServedModel) -> StartableEngine:
    config = engine_config(settings, settings.model or bundled_model(), model.tokenizer.max_id + 1)
    with loading_bar() as progress:
        return load_engine(config, progress, model.tokenizer.vocabulary)


def bundled_model() -> Path:
    """The folder of the small model that comes with the package."""
    return Path(str(files("engine"))) / "nano"


def greeting(listener: socket.socket, model: ServedModel, needs_key: bool) -> str:
    """Where the server is and a request to paste. The key stays the reader's secret."""
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{reachable}:{port}"
    key = ' -H "Authorization: Bearer $DELTALOOP_API_KEY"' if needs_key else ""
    body = f'{{"model": "{model.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return (
        f"deltaloop serves {', '.join(model.names)} at {url}/v1\n\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'\n"
    )


@contextlib.contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar with a speed while weights are read, fed with the bytes so far and in all; quiet when not on a terminal."""
    columns = (
        TextColumn("loading the model"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("")

    def show(done: int, total: int) -> None:
        progress.start()  # not before: a model that cannot be read should leave one line, the complaint
        progress.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if progress.live.is_started:
            progress.stop()


def _terminate(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Until the daemon listens there is nothing to drain."""
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _complain(text: str, code: int) -> int:
    _say(f"deltaloop: {text}")
    return code
