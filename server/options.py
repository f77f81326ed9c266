"""From flags, environment and file to one `Settings`: the parser is generated from the model, nothing is listed twice.

Flags win over `DELTALOOP_…` variables, those over the file, that over the defaults. Every complaint names the option
the way its author wrote it and never repeats a secret. Knows nothing of servers or engines.
"""

import argparse
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from engine.config import KERNEL_VARIABLES
from server.settings import Option, Settings
from server.validation import describe

ENV_PREFIX = "DELTALOOP_"
_LISTS = frozenset({"served_model_name", "api_key", "allowed_origins"})


class OptionError(Exception):
    """One option is wrong: a line that names it and says what is allowed."""


def option_of(field: FieldInfo) -> Option:
    """The `Option` that describes a field of `Settings`."""
    return next(item for item in field.metadata if isinstance(item, Option))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser every option of `Settings`, under its heading."""
    parser.add_argument("model", nargs="?", metavar="MODEL", default=argparse.SUPPRESS, help=_help_of("model"))
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in Settings.model_fields.items():
        option = option_of(field)
        if name == "model":
            continue
        group = groups.setdefault(option.group, parser.add_argument_group(option.group))
        _add_flag(group, name, field, option)
    groups["Running"].add_argument("--config", type=Path, metavar="FILE", help="TOML or YAML file with these options")


def _add_flag(group: argparse._ArgumentGroup, name: str, field: FieldInfo, option: Option) -> None:
    flags = [f"--{spelling}" for spelling in (name.replace("_", "-"), *option.aliases)]
    text = _help_of(name)
    if field.annotation is bool:
        group.add_argument(
            *flags, dest=name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
    else:
        action = "append" if name in _LISTS else "store"
        metavar = option.unit.upper() or name.rpartition("_")[2].upper()
        group.add_argument(*flags, dest=name, action=action, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _help_of(name: str) -> str:
    field = Settings.model_fields[name]
    choices = getattr(field.annotation, "__args__", ())
    allowed = f": {', '.join(choices)}" if choices and all(isinstance(choice, str) for choice in choices) else ""
    text = f"{option_of(field).help}{allowed}"
    if name == "model" or field.default is None or field.default == () or field.default is False:
        return text
    return f"{text} (default: {field.default})".replace("%", "%%")


def load_settings(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Merge the three sources. `arguments` holds only the flags that were given, and `config`.

    Raises:
        OptionError: an unknown name or a value that is not allowed, in any of them.
    """
    values: dict[str, Any] = {}
    written: dict[str, str] = {}  # how the user wrote each option, for complaints
    config = arguments.get("config") or environment.get(f"{ENV_PREFIX}CONFIG")
    sources = [_from_file(Path(config))] if config else []
    sources += [_from_environment(environment), _from_flags(arguments)]
    for source in sources:
        for name, spelling, value in source:
            values[name] = value
            written[name] = spelling
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise OptionError(_complaint(error, written)) from None


def _from_flags(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for name, value in arguments.items():
        if name in Settings.model_fields:
            yield name, "MODEL" if name == "model" else f"--{name.replace('_', '-')}", value


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name in Settings.model_fields:
        variable = ENV_PREFIX + name.upper()
        # An empty variable is as good as none, but an empty key must not open the door: it is refused later.
        if environment.get(variable) or (name == "api_key" and variable in environment):
            yield name, variable, environment[variable]


def _from_file(path: Path) -> Iterator[tuple[str, str, Any]]:
    for key, value in _read_file(path).items():
        name = str(key).replace("-", "_")
        if name not in Settings.model_fields:
            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise OptionError(f"{path}: there is no option {key}{hint}")
        yield name, f"{path}: {key}", value


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise OptionError(f"--config: cannot read {path}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise OptionError(f"--config: {path} is not valid: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionError(f"--config: {path} must hold a table of options, name = value")
    return content


def _complaint(error: ValidationError, written: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    what = describe(first)
    if name == "api_key":  # the value may be the secret itself
        return f"{written[name]} {what}"
    return f"{written[name]} {what}, not {json.dumps(first['input'], default=str)}"


def refuse_strangers(arguments: Sequence[str]) -> None:
    """Complain of what the command line has beyond our options. Values are not repeated: one may be a secret.

    Raises:
        OptionError: there is something.
    """
    if not arguments:
        return
    flag = next((item.partition("=")[0] for item in arguments if item.startswith("-")), None)
    if flag is None:
        raise OptionError("serve takes one MODEL, but there are more words; see deltaloop serve --help")
    known = [f"--{name.replace('_', '-')}" for name in Settings.model_fields]
    close = difflib.get_close_matches(flag, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "see deltaloop serve --help"
    raise OptionError(f"there is no option {flag}; {hint}")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that mean nothing, so that a slip of the pen is seen."""
    known = {*(ENV_PREFIX + name.upper() for name in (*Settings.model_fields, "config")), *KERNEL_VARIABLES}
    return sorted(name for name in environment if name.startswith(ENV_PREFIX) and name not in known)
