"""The image and the compose files, as far as they can be checked without building anything."""

import fnmatch
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.daemon import _LAST_WRITES_SECONDS
from server.options import unknown_variables
from server.settings import Settings
from tests.support.api import Api, live

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
CUDA = yaml.safe_load((ROOT / "deploy/docker-compose.cuda.yml").read_text("utf-8"))
HEALTHCHECK = ROOT / "deploy/docker/healthcheck.py"


@dataclass(frozen=True)
class Instruction:
    """One line of the Dockerfile, and the number of its stage."""

    name: str
    arguments: str
    stage: int


def instructions() -> list[Instruction]:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[Instruction] = []
    stage = 0
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, arguments = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(name, arguments, stage))
    return found


DOCKERFILE = instructions()
LAST_STAGE = max(instruction.stage for instruction in DOCKERFILE)


def the_last(name: str) -> str:
    return next(i.arguments for i in reversed(DOCKERFILE) if i.name == name and i.stage == LAST_STAGE)


def copied_sources() -> list[str]:
    copies = [i.arguments for i in DOCKERFILE if i.name == "COPY" and "--from=" not in i.arguments]
    return [source for arguments in copies for source in arguments.split()[:-1]]


def test_the_image_does_not_run_as_root() -> None:
    user, _, group = the_last("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_runs_and_watches_the_daemon() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert json.loads(the_last("ENTRYPOINT"))[0] in scripts
    assert json.loads(the_last("CMD")) == ["serve"]
    assert the_last("STOPSIGNAL") == "SIGTERM"
    assert str(Settings().port) == the_last("EXPOSE")
    check = the_last("HEALTHCHECK")
    path = json.loads(check[check.index("[") :])[1]
    assert f"COPY {HEALTHCHECK.relative_to(ROOT)} {path}" in (ROOT / "Dockerfile").read_text("utf-8")


def test_the_image_listens_to_the_outside() -> None:
    assert "DELTALOOP_HOST=0.0.0.0" in the_last("ENV")
    assert not unknown_variables(dict.fromkeys(re.findall(r"DELTALOOP_\w+", the_last("ENV")), "x"))


@pytest.mark.parametrize("source", copied_sources())
def test_what_is_copied_is_there_and_sent_to_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    assert any(source == name or source.startswith(f"{name}/") for name in sent)


def test_every_data_file_goes_into_the_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    for path in [*ROOT.glob("engine/**/*"), *ROOT.glob("server/**/*")]:
        if path.is_dir() or path.suffix in {".py", ".pyc"}:
            continue
        package = ".".join(path.parent.relative_to(ROOT).parts)
        patterns = [*data.get("*", []), *data.get(package, [])]
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), f"{path} is left out of the wheel"


# --- the health check ---------------------------------------------------------------------------------------------


def health(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DELTALOOP_PORT": url.rpartition(":")[2], **variables}
    command = [sys.executable, "-I", str(HEALTHCHECK)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_health_of_a_living_server() -> None:
    with live(Api()) as url:
        assert health(url).returncode == 0
        assert health(url, http_proxy="http://127.0.0.1:9").returncode == 0


def test_health_of_a_broken_engine() -> None:
    api = Api()
    api.engine.alive = False
    with live(api) as url:
        result = health(url)
    assert result.returncode == 1
    assert "the engine stopped" in result.stderr


def test_health_of_nobody() -> None:
    with live(Api()) as url:
        pass
    assert health(url).returncode == 1


def test_health_behind_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsecret\n", "utf-8")
    with live(Api(keys=("secret",), protect_metrics=True)) as url:
        assert health(url).returncode == 1
        assert health(url, DELTALOOP_API_KEY="secret,other").returncode == 0
        assert health(url, DELTALOOP_API_KEY_FILE=str(keys)).returncode == 0


def test_health_asks_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELTALOOP_PORT", raising=False)
    asked: list[str] = []

    class Opener:
        def open(self, request: Any, timeout: float) -> None:
            asked.append(request.full_url)
            raise OSError("refused")

    monkeypatch.setattr("urllib.request.build_opener", lambda *handlers: Opener())
    assert runpy.run_path(str(HEALTHCHECK))["check"]() == "refused"
    assert asked == ["http://127.0.0.1:8000/health"]


# --- compose ------------------------------------------------------------------------------------------------------


def test_services() -> None:
    assert set(COMPOSE["services"]) == {"daemon", "prometheus", "grafana"}
    assert set(CUDA["services"]) <= set(COMPOSE["services"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_reached_from_this_machine_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["ports"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "network_mode" not in service


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_what_a_service_mounts_is_there(name: str) -> None:
    for volume in COMPOSE["services"][name]["volumes"]:
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
        assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], volume


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", COMPOSE["services"][name]["image"])


def test_stopping_waits_for_the_drain() -> None:
    grace = int(COMPOSE["services"]["daemon"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().shutdown_timeout + _LAST_WRITES_SECONDS


def test_the_daemon_is_confined() -> None:
    daemon = COMPOSE["services"]["daemon"]
    assert daemon["read_only"] is True
    assert daemon["tmpfs"] == ["/tmp"]
    assert daemon["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("compose", [COMPOSE, CUDA], ids=["plain", "cuda"])
def test_variables_and_arguments_exist(compose: dict[str, Any]) -> None:
    daemon = compose["services"]["daemon"]
    assert not unknown_variables(dict.fromkeys(daemon["environment"], "x"))
    declared = {i.arguments.partition("=")[0] for i in DOCKERFILE if i.name == "ARG"}
    assert set(daemon["build"].get("args", {})) <= declared


def test_cuda_asks_for_a_gpu() -> None:
    daemon = CUDA["services"]["daemon"]
    (device,) = daemon["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert daemon["image"] != COMPOSE["services"]["daemon"]["image"]
