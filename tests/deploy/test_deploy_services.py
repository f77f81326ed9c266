"""The systemd unit, the Kubernetes manifest, and the variables that any file of the deployment names."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.daemon import _LAST_WRITES_SECONDS
from server.options import load_settings, unknown_variables
from server.settings import Settings
from tests.support.api import Api

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "systemd/deltaloop.service").read_text("utf-8")
MANIFEST = (DEPLOY / "kubernetes/deltaloop.yaml").read_text("utf-8")
OBJECTS: dict[str, dict[str, Any]] = {document["kind"]: document for document in yaml.safe_load_all(MANIFEST)}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
FILES = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(path for path in DEPLOY.rglob("*") if path.is_file())]
LONGEST_DRAIN = Settings().shutdown_timeout + _LAST_WRITES_SECONDS


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_variables_mean_something(path: Path) -> None:
    named = set(re.findall(r"\bDELTALOOP_[A-Z_]+", path.read_text("utf-8")))
    assert not unknown_variables(dict.fromkeys(named, "x"))


# --- systemd ------------------------------------------------------------------------------------------------------


def directive(name: str) -> str:
    values = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    assert len(values) == 1, name
    return str(values[0])


def test_the_unit_waits_for_the_drain() -> None:
    assert int(directive("TimeoutStopSec")) > LONGEST_DRAIN


def test_the_unit_runs_the_command_under_a_user_of_its_own() -> None:
    assert directive("ExecStart").endswith("/bin/deltaloop serve")
    assert directive("DynamicUser") == "yes"
    assert directive("EnvironmentFile") == "-/etc/deltaloop/deltaloop.env"


def test_every_example_in_the_environment_file_is_allowed() -> None:
    lines = (DEPLOY / "systemd/deltaloop.env").read_text("utf-8").splitlines()
    examples = dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?DELTALOOP_\w+=", line))
    assert len(examples) > 5
    load_settings({}, examples)
    load_settings({}, dict(line.split("=", 1) for line in lines if line and not line.startswith("#")))


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/ready"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]
)
def test_a_probe_asks_a_route_that_exists(probe: str, path: str) -> None:
    request = CONTAINER[probe]["httpGet"]
    assert request["path"] == path
    assert request["port"] in {port["name"] for port in CONTAINER["ports"]}
    assert Api(keys=("secret",)).get(path).status_code == 200  # without a key


def test_a_large_model_has_time_to_load() -> None:
    probe = CONTAINER["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
    assert OBJECTS["Deployment"]["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_the_pod_waits_for_the_drain() -> None:
    before = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > before + LONGEST_DRAIN


def test_no_service_link_poses_as_an_option() -> None:
    assert OBJECTS["Service"]["metadata"]["name"] == "deltaloop"
    assert POD["enableServiceLinks"] is False


def test_the_key_comes_from_a_secret_that_is_not_in_the_file() -> None:
    (key,) = [item for item in CONTAINER["env"] if item["name"] == "DELTALOOP_API_KEY"]
    assert set(key["valueFrom"]["secretKeyRef"]) == {"name", "key"}
    assert "Secret" not in OBJECTS


def test_the_pod_fits_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    security = POD["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in dockerfile
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert set(mounted) == {"/models", "/tmp"}
    assert set(mounted.values()) == {volume["name"] for volume in POD["volumes"]}
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in POD["volumes"]
        if len(volume) == 2 and "persistentVolumeClaim" in volume
    ]
    assert claims == [OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]]


def test_service_and_deployment_agree() -> None:
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    (port,) = OBJECTS["Service"]["spec"]["ports"]
    assert port["targetPort"] == CONTAINER["ports"][0]["name"]
    assert CONTAINER["ports"][0]["containerPort"] == Settings().port
