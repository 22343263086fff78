"""Prometheus takes our metrics, our configuration, our alerts and what the dashboard asks."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import DEPLOY, RULES, Prometheus
from tests.model_store.registries import program
from tests.service.conftest import Served, compilations, served
from tests.service.systems import png
from tests.service.waiting import eventually

__all__ = ["compilations", "served"]
ADAPTER = DEPLOY / "kubernetes" / "metrics-adapter.yaml"


def promtool(*arguments: str, text: str | None = None) -> str:
    """What promtool prints; fails as it does."""
    command = [program("promtool", "prometheus"), *arguments]
    done = subprocess.run(command, cwd=RULES, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_configuration_is_one_and_the_alerts_fire_when_they_should() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tried() -> None:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert alerts == fired


def test_metrics_are_named_and_described_as_prometheus_wants(served: Served) -> None:
    assert promtool("check", "metrics", text=served.server.metrics()) == ""


@pytest.fixture(scope="module")
def prometheus(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(folder, [{"targets": [f"127.0.0.1:{served.server.port}"]}]) as made:
        eventually(lambda: made.query('up{job="munet-gateway"} == 1'))
        yield made


def panels() -> list[Any]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every query of the dashboard, with Grafana's variables filled in as it does."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$instance", ".*")
        for panel in panels()
        for target in panel["targets"]
    }


def adapter_query() -> str:
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    return (
        rule["metricsQuery"].replace("<<.GroupBy>>", "instance").replace("<<.LabelMatchers>>", "")
    )


def test_a_real_prometheus_scrapes_and_evaluates_the_alerts(
    served: Served, prometheus: Prometheus
) -> None:
    assert served.server.classify("plain", png(1)).status == 200
    eventually(lambda: prometheus.query('munet_requests_total{task="plain", status="200"}'))
    assert prometheus.query("munet_build_info == 1")
    assert prometheus.query("process_resident_memory_bytes > 0")

    def rules() -> list[Any]:
        groups = (prometheus.ask("rules") or {"groups": []})["groups"]
        return [rule for group in groups for rule in group["rules"]]

    eventually(lambda: rules() and all(rule["health"] == "ok" for rule in rules()))
    alerts = [rule for rule in rules() if rule["type"] == "alerting"]
    assert {rule["state"] for rule in alerts} == {"inactive"}


def test_the_dashboard_asks_for_what_there_is(served: Served, prometheus: Prometheus) -> None:
    def traffic_in_rates() -> list[Any]:
        served.server.classify("plain", png(1))
        return prometheus.query("rate(munet_requests_total[1m]) > 0")

    eventually(traffic_in_rates)
    asked = expressions()
    assert len(asked) > 30
    for name, expression in asked.items():
        assert prometheus.ask("query", query=expression) is not None, name
    always = [name for name in asked if name.startswith(("Requests by", "Queue", "CPU", "Memory"))]
    assert len(always) >= 6
    for name in always:
        assert prometheus.query(asked[name]), name
    (load,) = prometheus.query(adapter_query())
    assert 0 < float(load["value"][1]) < 60


def test_no_query_names_a_metric_that_is_not_there(served: Served) -> None:
    page = served.server.metrics()
    known: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE):
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        known |= {name + part for part in parts}
    alerts = (RULES / "alerts.yml").read_text()
    texts = {**expressions(), "alerts": alerts, "autoscaling": adapter_query()}
    for where, text in texts.items():
        named = set(re.findall(r"\b(?:munet|process)_[a-z_]+\b", text))
        assert named, where
        assert named <= known, where
