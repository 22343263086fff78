"""Prometheus takes our metrics, our configuration, our alerts and what the dashboard asks."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import DEPLOY, RULES, Prometheus
from tests.model_store.registries import program
from tests.service.conftest import Served, compilations, served
from tests.service.systems import png, publish
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


DASHBOARD: Any = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
FAILED = "Versions that cannot be loaded"  # so the table's title begins


def filled(query: str, task: str) -> str:
    """A query with Grafana's variables filled in as it does; a minute ago is three seconds."""
    given = {"$__rate_interval": "1m", "$instance": ".*", "$task": task, "offset 1m": "offset 3s"}
    for name, value in given.items():
        query = query.replace(name, value)
    return query


def expressions(task: str = ".*") -> dict[str, str]:
    """Every query of the dashboard's panels."""
    return {
        f"{panel['title']} {target['refId']}": filled(target["expr"], task)
        for panel in DASHBOARD["panels"]
        if panel["type"] != "row"
        for target in panel["targets"]
    }


def annotations() -> dict[str, str]:
    """Every query of its annotations."""
    return {one["name"]: filled(one["expr"], ".*") for one in DASHBOARD["annotations"]["list"]}


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


@pytest.fixture(scope="module")
def broken(served: Served) -> Iterator[str]:
    """A task that cannot be loaded, from the first test on that needs it."""
    head = publish(served.store, "broken", own={"head": 77}).path.components["head"]
    file = Path(served.store.url) / "blobs" / "sha256" / head.removeprefix("sha256:")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    yield "broken"
    served.store.rm("broken")


def test_every_query_of_the_dashboard_answers_under_load_for_each_task(
    served: Served, prometheus: Prometheus, broken: str
) -> None:
    tasks = ("plain", "group/other", broken)

    def counted() -> bool:
        for task in tasks:
            served.server.classify(task, png(1))
        rates = prometheus.query("rate(munet_requests_total[1m]) > 0")
        return {found["metric"]["task"] for found in rates} >= {*tasks}

    eventually(counted)
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "task")
    series = variable["definition"].removeprefix("label_values(").partition(", ")[0]
    offered = {found["metric"]["task"] for found in prometheus.query(filled(series, ".*"))}
    assert offered >= {*tasks}
    for task in (".*", *tasks):
        asked = expressions(task)
        assert len(asked) > 50
        for name, expression in asked.items():
            if task == broken and re.search("request_duration|answered", expression):
                continue  # it answers nothing
            empty = name.startswith(FAILED) and task not in (".*", broken)
            assert bool(prometheus.query(expression)) != empty, (name, task)
    (load,) = prometheus.query(adapter_query())
    assert 0 < float(load["value"][1]) < 60


def test_the_table_of_failed_versions_says_why(
    served: Served, prometheus: Prometheus, broken: str
) -> None:
    assert served.server.classify(broken, png(1)).status == 503
    (query,) = (query for name, query in expressions(broken).items() if name.startswith(FAILED))
    (found,) = eventually(lambda: prometheus.query(query))
    assert found["metric"].keys() == {"task", "version", "reason"}
    assert "sha256:" in found["metric"]["reason"]


def test_the_stages_of_the_stack_sum_to_the_total(served: Served, prometheus: Prometheus) -> None:
    (panel,) = (one for one in DASHBOARD["panels"] if one["title"].startswith("Where the time"))
    assert panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    stages = filled(panel["targets"][0]["expr"], "plain")
    mean = (
        'rate(munet_stage_duration_seconds_{}{{task="plain",stage="total",outcome="answered"}}[1m])'
    )
    total = f"({mean.format('sum')}) / ({mean.format('count')})"
    query = f"sum({stages}) / on () group_left () ({total})".replace("[1m]", "[5s]")

    def whole() -> bool:
        """Once there are samples of five seconds: before, each series is extrapolated alone."""
        served.server.classify("plain", png(1))
        found = [float(one["value"][1]) for one in prometheus.query(query)]
        return found == [pytest.approx(1, abs=1e-6)]

    eventually(whole)


def test_versions_that_go_live_and_back_are_marked(served: Served, prometheus: Prometheus) -> None:
    asked = annotations()
    (ended,) = (name for name in asked if name.startswith("Roll-out ended"))
    all_rules = asked.pop(ended).removesuffix(" > 0")  # none has ended one here
    eventually(lambda: prometheus.query(all_rules))
    before = served.store.resolve("changing").version
    assert served.server.classify("changing", png(1)).status == 200
    eventually(lambda: prometheus.query(f'munet_live_version{{task="changing"}} == {before}'))
    after = publish(served.store, "changing", own={"head": 1234}).version

    def marked(name: str, version: int) -> bool:
        served.server.classify("changing", png(1))
        found = [one["metric"] for one in prometheus.query(asked[name])]
        return {"task": "changing", "version": str(version)} in found

    eventually(lambda: marked("Published", after))
    served.store.rollback("changing", before)
    eventually(lambda: marked("Rolled back", before))


def test_no_query_names_a_metric_that_is_not_there(served: Served) -> None:
    page = served.server.metrics()
    known: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE):
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        known |= {name + part for part in parts}
    alerts = (RULES / "alerts.yml").read_text()
    texts = {**expressions(), **annotations(), "alerts": alerts, "autoscaling": adapter_query()}
    for where, text in texts.items():
        named = set(re.findall(r"\b(?:munet|process)_[a-z_]+\b", text))
        assert named, where
        assert named <= known, where
