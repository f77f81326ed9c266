"""Every option of the daemon, once: name, type, default, unit and one line of explanation.

The command line, the environment and the configuration file are all made from this model (see `server.options`). It
knows nothing of the engine; `server.cli` turns it into the engine's own configuration.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Option:
    """How one setting shows itself: the heading it stands under, its line of help, its unit and other flags for it."""

    group: str
    help: str
    unit: str = ""
    aliases: tuple[str, ...] = ()


def parse_size(value: Any) -> Any:
    """Turn `8GiB`, `512MB` or `1073741824` into a number of bytes; MB is a million, MiB is 2**20."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a number of bytes, or a size like 512MB or 8GiB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[(prefix or "").lower()])


def _none_for_auto(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in {"auto", "none"} else value


def _split_list(value: Any) -> Any:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(item.strip() for part in parts for item in part.split(",") if item.strip())


Bytes = Annotated[int, BeforeValidator(parse_size)]
OptionalCount = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_none_for_auto)]
OptionalBytes = Annotated[Annotated[Bytes, Field(ge=1)] | None, BeforeValidator(_none_for_auto)]
OptionalSize = Annotated[Annotated[Bytes, Field(ge=0)] | None, BeforeValidator(_none_for_auto)]
OptionalSeconds = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_none_for_auto)]
OptionalSeed = Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, BeforeValidator(_none_for_auto)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_list)]
Secrets = Annotated[
    tuple[SecretStr, ...], Field(min_length=1), BeforeValidator(_split_list)
]  # "" must not open the door

_MODEL, _LISTENING, _ACCESS = "Model", "Listening", "Access"
_LIMITS, _QUEUE, _DEVICE, _RUNNING = "Limits of a request", "Batching and queue", "Device and memory", "Running"


class Settings(BaseModel):
    """The resolved options of one daemon, frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[
        Path | None, Option(_MODEL, "folder of the model, or GGUF file; without it the bundled small one")
    ] = None
    served_model_name: Annotated[
        Names, Option(_MODEL, "names clients may use, the first is the default; repeat or separate with commas")
    ] = ()
    seed: Annotated[
        OptionalSeed, Option(_MODEL, "seed for requests that bring none; auto draws a fresh one for each")
    ] = None

    host: Annotated[str, Option(_LISTENING, "address to listen on; 0.0.0.0 for every interface")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535), Option(_LISTENING, "port to listen on; 0 picks a free one")] = 8000

    api_key: Annotated[
        Secrets, Option(_ACCESS, "keys that open the API; repeat or separate with commas; without any it is open")
    ] = ()
    api_key_file: Annotated[Path | None, Option(_ACCESS, "file with one more key on each line")] = None
    protect_metrics: Annotated[bool, Option(_ACCESS, "ask for a key on /health, /ready, /metrics and / as well")] = (
        False
    )
    allowed_origins: Annotated[
        Names, Option(_ACCESS, "web origins that browsers may call from (CORS); * for any; none by default")
    ] = ()

    max_model_len: Annotated[
        OptionalCount,
        Option(_LIMITS, "longest prompt and answer together; auto takes what memory allows", "tokens", ("ctx-size",)),
    ] = None
    max_output_tokens: Annotated[
        OptionalCount, Option(_LIMITS, "longest answer; a request for more is cut down to it", "tokens")
    ] = None
    request_timeout: Annotated[
        OptionalSeconds, Option(_LIMITS, "end a request that takes longer, its wait included", "seconds")
    ] = None
    share_cache_across_keys: Annotated[
        bool, Option(_ACCESS, "let a prompt start from what another API key's requests left; hits show in usage")
    ] = False
    replay: Annotated[
        bool, Option(_LIMITS, "encode an answer that comes back as the tokens that were generated, not as its text")
    ] = True
    tool_strict: Annotated[
        Literal["on", "off"],
        Option(_LIMITS, "hold calls that the model makes of its own accord to the tools' schemas; text stays free"),
    ] = "on"
    tool_syntax_greedy: Annotated[
        bool, Option(_LIMITS, "in a call that is held, draw tags and names greedily, whatever the temperature")
    ] = False
    max_body_size: Annotated[Bytes, Field(ge=1), Option(_LIMITS, "largest request body", "bytes")] = 16 * 2**20

    max_num_seqs: Annotated[
        OptionalCount,
        Option(_QUEUE, "most sequences that run at once; auto takes what memory allows", "", ("parallel",)),
    ] = None
    max_running_per_key: Annotated[
        OptionalCount, Option(_QUEUE, "most sequences of one API key that run at once; its others wait in line")
    ] = None
    max_num_batched_tokens: Annotated[
        OptionalCount, Option(_QUEUE, "most tokens one step computes; auto chooses", "tokens")
    ] = None
    max_num_queued_reqs: Annotated[
        int, Field(ge=1), Option(_QUEUE, "most sequences waiting in line; past it requests get 503")
    ] = 1024
    max_num_queued_tokens: Annotated[
        OptionalCount, Option(_QUEUE, "most prompt tokens waiting in line; past it requests get 503", "tokens")
    ] = None
    max_inter_token_gap: Annotated[
        float,
        Field(gt=0),
        Option(_QUEUE, "longest pause a running answer may see while a long prompt is read", "seconds"),
    ] = 0.25

    device: Annotated[Literal["auto", "cpu", "cuda"], Option(_DEVICE, "where to compute")] = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"], Option(_DEVICE, "number format of dense weights and the KV cache")
    ] = "auto"
    quantization: Annotated[
        Literal["none", "int8", "int4"],
        Option(_DEVICE, "make weights smaller as they are read, dense ones only; int4 is for experts"),
    ] = "none"
    packing: Annotated[
        Literal["auto", "on", "off"],
        Option(_DEVICE, "rearrange quantised weights in memory for speed; off maps the file; auto if memory allows"),
    ] = "auto"
    threads: Annotated[OptionalCount, Option(_DEVICE, "CPU threads to compute with; auto takes all cores")] = None
    kv_cache_memory_bytes: Annotated[
        OptionalBytes, Option(_DEVICE, "memory for the KV cache and states; auto takes what is free", "bytes")
    ] = None
    cache_ram_bytes: Annotated[
        OptionalSize,
        Option(_DEVICE, "main memory for states kept between requests, on a CPU of that; 0 keeps none", "bytes"),
    ] = None
    cache_dir: Annotated[
        Path | None,
        Option(_DEVICE, "folder for kept states, so that they outlive a restart; holds what was said; none by default"),
    ] = None
    cache_disk_bytes: Annotated[
        OptionalBytes, Option(_DEVICE, "most of it to use; auto takes half of what is free", "bytes")
    ] = None
    gpu_memory_utilization: Annotated[
        float, Field(gt=0, le=1), Option(_DEVICE, "share of the GPU's memory to use, 0 to 1")
    ] = 0.9

    shutdown_timeout: Annotated[
        float, Field(ge=0), Option(_RUNNING, "on SIGTERM, how long running answers may take to finish", "seconds")
    ] = 30.0
    sse_keep_alive_interval: Annotated[
        float, Field(gt=0), Option(_RUNNING, "longest silence in a stream before a keep-alive comment", "seconds")
    ] = 10.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Option(_RUNNING, "least level to log")] = "info"
