"""Dashboard, alert rules and scraping, held against what the server really exports."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import Series, grouping_labels, series_in
from tests.support.api import Api

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/deltaloop.json").read_text("utf-8"))
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((f"panel {panel['title']}", target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((f"alert {rule['alert']}", rule["expr"]) for rule in RULES),
]
SCRAPED = frozenset({"job", "instance"})  # labels that Prometheus adds
SUMMED_UP = {"le", "reason", "finished_reason", "status", "method", "handler", "model_name"} | SCRAPED
CLASSIC_PANELS = {
    "E2E Request Latency",
    "Token Throughput",
    "Inter Token Latency",
    "Scheduler State",
    "Time To First Token Latency",
    "Cache Utilization",
    "Request Prompt Length",
    "Request Generation Length",
    "Finish Reason",
    "Queue Time",
    "Requests Prefill and Decode Time",
    "Max Generation Token in Sequence Group",
}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every sample's name with its labels."""
    api = Api()
    api.get("/v1/models")  # so that a request was counted
    families = text_string_to_metric_families(api.get("/metrics").text)
    found: dict[str, set[str]] = {"up": set()}  # this one is Prometheus' own
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[f"{w}-{n}" for n, (w, _) in enumerate(EXPRESSIONS)])
def test_expression_reads_what_the_server_exports(where: str, expression: str, exported: dict[str, set[str]]) -> None:
    read = series_in(expression)
    assert read, where
    for series in read:
        assert series.name in exported, f"{where} reads {series.name}, which the server does not export"
        unknown = series.labels - exported[series.name] - SCRAPED
        assert not unknown, f"{where}: {series.name} has no label {', '.join(sorted(unknown))}"
    labels = set().union(*(exported[series.name] for series in read)) | SCRAPED
    assert grouping_labels(expression) <= labels, where


def test_expressions_are_taken_apart_rightly() -> None:
    expression = 'sum by(le) (rate(a:b_bucket{m="$x", n!="}"}[$__rate_interval])) / (max(c) > 0.5 and on(job) d{})'
    names = [series.name for series in series_in(expression.replace("}", "", 1))]
    assert names == ["a:b_bucket", "c", "d"]
    assert series_in('a{m="1", n=~"2"}[5m]') == [Series("a", frozenset({"m", "n"}))]
    assert grouping_labels(expression) == {"le", "job"}


# --- the dashboard ------------------------------------------------------------------------------------------------


def test_panels_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_panels_do_not_overlap() -> None:
    for one, other in itertools.combinations(DASHBOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one['title']} and {other['title']}"
        assert a["x"] + a["w"] <= 24


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_panel_is_complete(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    unit = panel["options"]["yAxis"]["unit"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]["unit"]
    assert unit


def test_the_classic_dashboard_is_all_there() -> None:
    assert {panel["title"] for panel in PANELS} >= CLASSIC_PANELS


def test_variables_and_identity() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "model_name"]
    assert DASHBOARD["id"] is None  # or an import would replace another one
    assert DASHBOARD["uid"] == "deltaloop"


# --- alerts and scraping ------------------------------------------------------------------------------------------


def test_alerts_say_what_is_wrong_and_where() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_alerts_keep_the_labels_they_print() -> None:
    for rule in RULES:
        grouped = grouping_labels(rule["expr"])
        printed = {label for label in SUMMED_UP if f"$labels.{label} " in str(rule["annotations"])}
        assert not grouped or printed <= grouped, rule["alert"]


def test_prometheus_scrapes_the_daemon_of_the_compose_file() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "deltaloop"
    assert job["static_configs"] == [{"targets": ["daemon:8000"]}]
    assert Api().get(job["metrics_path"]).status_code == 200
    for name in PROMETHEUS["rule_files"]:
        assert (DEPLOY / "prometheus" / name).is_file()


def _jobs_named() -> Iterator[str]:
    for _, expression in EXPRESSIONS:
        yield from (part.partition('"')[0] for part in expression.split('job="')[1:])


def test_the_job_in_the_rules_is_the_one_scraped() -> None:
    assert set(_jobs_named()) == {job["job_name"] for job in PROMETHEUS["scrape_configs"]}


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text("utf-8"))
    folder = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"].removeprefix("http://").removesuffix(":9090") in compose["services"]
    (provider,) = yaml.safe_load((folder / "dashboards/deltaloop.yml").read_text("utf-8"))["providers"]
    path = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in compose["services"]["grafana"]["volumes"]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/deltaloop.json"
