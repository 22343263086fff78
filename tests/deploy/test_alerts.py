"""Every alert has a runbook, and fires and ends on a real Prometheus as what it is about does."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_store import ModelStore
from tests.deploy.prometheus import DEPLOY, RULES, Prometheus
from tests.service.conftest import compilations
from tests.service.servers import Server
from tests.service.systems import png, publish
from tests.service.waiting import eventually

__all__ = ["compilations"]
RUNBOOKS, RUNBOOKS_URL = DEPLOY / "runbooks.md", "https://munet.example/runbooks.md"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RANGE_S = 8  # of a shortened window: some scrapes
GROUPS: Any = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    sections = re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    found = {section.split("\n", 1)[0]: section for section in sections}
    assert list(found) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS_URL}#{name.lower()}"
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in found[name] or name == "GatewayErrorBudgetShrinks", (name, part)


def test_links_between_runbooks_lead_somewhere() -> None:
    text = RUNBOOKS.read_text()
    assert set(re.findall(r"\(#(\w+)\)", text)) <= {name.lower() for name in ALERTS}


def test_the_operator_gets_the_same_rules() -> None:
    manifest = yaml.safe_load(
        (DEPLOY / "kubernetes" / "alerts" / "prometheusrule.yaml").read_text()
    )
    assert manifest["spec"] == {"groups": GROUPS}
    assert manifest["kind"] == "PrometheusRule"


def shortened(folder: Path, *, age_s: int = 5) -> Path:
    """The rules with windows and waits of seconds; `age_s` is what ages may be."""
    text = (RULES / "alerts.yml").read_text()
    text = re.sub(r"\[\d+[smhd]\]", f"[{RANGE_S}s]", text)
    text = re.sub(r"for: \d+[smhd]", "for: 1s", text)
    text = re.sub(r"(_age_seconds\)) > 60", rf"\1 > {age_s}", text)
    text = text.replace("3 * 86400", "60").replace("3 * 3600", "60")
    file = folder / "alerts.yml"
    file.write_text(text)
    return file


def firing(prometheus: Prometheus) -> set[tuple[str, str]]:
    """Alert and instance, or what else tells it from others."""
    found = (prometheus.ask("alerts") or {"alerts": []})["alerts"]
    return {
        (one["labels"]["alertname"], one["labels"].get("instance", ""))
        for one in found
        if one["state"] == "firing"
    }


def page(series: Mapping[str, float]) -> bytes:
    return "".join(f"{name} {value!r}\n" for name, value in series.items()).encode()


class Story:
    """Pages of made-up gateways: each is well until its trouble begins, and again when it ends."""

    def __init__(self) -> None:
        self.trouble = False
        self.grown: dict[tuple[str, str], float] = {}
        self.last = time.monotonic()
        self.lock = threading.Lock()

    def grow(self, instance: str, rates: Mapping[str, float]) -> Mapping[str, float]:
        """Counters that have grown by these rates since they were last asked for."""
        now = time.monotonic()
        with self.lock:
            since = self.grown.setdefault((instance, ""), now)
            self.grown[instance, ""] = now
            for name, rate in rates.items():
                key = instance, name
                self.grown[key] = self.grown.get(key, 0.0) + rate * (now - since)
            return {name: self.grown[instance, name] for name in rates}

    def of(self, instance: str) -> bytes | None:
        """What a scrape gets; None if nothing answers."""
        bad = self.trouble
        if instance == "GatewayDown" and bad:
            return None
        rates = {**WELL, **(IN_TROUBLE.get(instance, {}) if bad else {})}
        gauges = {**GAUGES, **(GAUGES_IN_TROUBLE.get(instance, {}) if bad else {})}
        if instance == "GatewayRestarts" and bad:
            gauges["process_start_time_seconds"] = float(int(time.time()))
        jobs = {
            f'kube_cronjob_status_last_successful_time{{namespace="{instance}",'
            f'cronjob="munet-gateway-{kind}"}}': time.time()
            - (3600 if bad and instance == name else 1)
            for kind, name in (("gc", "StoreGcOld"), ("backup", "StoreBackupOld"))
        }
        return page({**self.grow(instance, rates), **gauges, **jobs})


def stage(outcome: str) -> str:
    return f'munet_stage_duration_seconds_count{{stage="total",outcome="{outcome}"}}'


def within(seconds: str) -> str:
    labels = f'stage="total",outcome="answered",le="{seconds}"'
    return f"munet_stage_duration_seconds_bucket{{{labels}}}"


def rejected(reason: str) -> str:
    return f'munet_rejected_total{{reason="{reason}"}}'


def offered(resource: str) -> str:
    return f'munet_offered_work_seconds_total{{resource="{resource}"}}'


LOOP, EVICTED = "munet_loop_delay_seconds_bucket", "munet_age_at_eviction_seconds_bucket"
# Per second, of a gateway that is well.
WELL: Mapping[str, float] = {
    'munet_requests_total{task="t",status="200"}': 10000.0,
    'munet_requests_total{task="t",status="500"}': 0.0,
    stage("answered"): 10000.0,
    stage("refused"): 0.0,
    stage("failed"): 0.0,
    **{within(bound): 10000.0 for bound in ("1", "2.5", "+Inf")},
    **{rejected(reason): 0.0 for reason in ("unavailable", "deadline", "short-deadline")},
    **{f'{LOOP}{{le="{bound}"}}': 20.0 for bound in ("0.1", "0.5", "+Inf")},
    offered("engine"): 0.5,
    "munet_queue_delay_seconds_sum": 10.0,
    "munet_queue_delay_seconds_count": 10000.0,
    "munet_evictions_total": 0.0,
    **{f'{EVICTED}{{le="{bound}"}}': 0.0 for bound in ("60", "600", "+Inf")},
}
GAUGES: Mapping[str, float] = {
    'munet_capacity{resource="engine"}': 1.0,
    'munet_tasks{state="failed"}': 0.0,
    "munet_store_age_seconds": 1.0,
    "munet_tokens_age_seconds": 1.0,
    "munet_trusted_keys_age_seconds": 1.0,
    "process_open_fds": 10.0,
    "process_max_fds": 1000.0,
    "process_start_time_seconds": 1000.0,
}
MANY_REFUSED = {stage("refused"): 20000.0, rejected("unavailable"): 20000.0}
IN_TROUBLE: Mapping[str, Mapping[str, float]] = {
    "GatewayFailsRequests": {'munet_requests_total{task="t",status="500"}': 100.0},
    "GatewayErrorBudgetShrinks": {stage("failed"): 10000.0},  # the budget is that of all together
    "GatewayRefusesRequests": MANY_REFUSED,
    "TaskErrorBudgetBurns": {'munet_requests_total{task="burning",status="503"}': 5.0},
    "GatewaySlow": {within("1"): 9000.0, within("2.5"): 9000.0},
    "GatewayOverloaded": {offered("engine"): 3.0},
    "GatewayLoopLate": {f'{LOOP}{{le="0.1"}}': 10.0},
    "GatewayQueueDelay": {"munet_queue_delay_seconds_sum": 5000.0},
    "GatewayMemoryThrashes": {
        "munet_evictions_total": 5.0,
        **{f'{EVICTED}{{le="{bound}"}}': 5.0 for bound in ("60", "600", "+Inf")},
    },
    # One client of many leaves four milliseconds, and asks all the time.
    "impatient": {stage("refused"): 20000.0, rejected("short-deadline"): 20000.0},
}
GAUGES_IN_TROUBLE: Mapping[str, Mapping[str, float]] = {
    "GatewayTaskFailed": {'munet_tasks{state="failed"}': 3.0},
    "TaskVersionFailed": {'munet_failed_versions{task="t",version="2",reason="torn"}': 1.0},
    "GatewayStoreUnreadable": {"munet_store_age_seconds": 100.0},
    "GatewayTokensUnusable": {"munet_tokens_age_seconds": 100.0},
    "GatewayKeysUnusable": {"munet_trusted_keys_age_seconds": 100.0},
    "GatewayFilesRunOut": {"process_open_fds": 900.0},
}
NO_INSTANCE = (
    *("GatewayErrorBudgetBurns", "GatewayErrorBudgetShrinks"),
    *("TaskVersionFailed", "TaskErrorBudgetBurns"),
)
OF_JOBS = ("StoreGcOld", "StoreBackupOld")
INSTANCES = (*(name for name in ALERTS if name != "GatewayAllGone"), "impatient")


@contextmanager
def told(story: Story) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = story.of(self.path.strip("/"))
            self.send_response(503 if found is None else 200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:  # pyright: ignore
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
def test_every_alert_fires_for_its_trouble_alone_and_ends_with_it(tmp_path: Path) -> None:
    story = Story()
    with told(story) as port:
        targets = [
            {
                "targets": [f"127.0.0.1:{port}"],
                "labels": {"__metrics_path__": f"/{name}", "instance": name},
            }
            for name in INSTANCES
        ]
        with Prometheus(tmp_path, targets, rules=shortened(tmp_path)) as prometheus:
            eventually(lambda: len(prometheus.query("up == 1")) == len(INSTANCES))
            well_for(prometheus, 2 * RANGE_S)
            story.trouble = True
            expected = {
                (name, "" if name in (*NO_INSTANCE, *OF_JOBS) else name)
                for name in INSTANCES
                if name != "impatient"
            }
            seen: set[tuple[str, str]] = set()

            def all_have_fired() -> bool:
                seen.update(firing(prometheus))
                return expected <= seen

            try:
                eventually(all_have_fired, 120.0)
            except AssertionError:
                raise AssertionError(f"did not fire: {expected - seen}") from None
            assert seen == expected
            story.trouble = False
            eventually(lambda: not firing(prometheus), 120.0)


def well_for(prometheus: Prometheus, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not firing(prometheus)
        time.sleep(0.5)


def becomes(prometheus: Prometheus, alert: str, fires: bool) -> None:
    eventually(lambda: (alert in {name for name, _ in firing(prometheus)}) == fires, 120.0)


@pytest.mark.slow
def test_a_real_gateway_sets_off_what_is_about_its_files_and_its_end(
    tmp_path: Path, compilations: str
) -> None:
    store, tokens = ModelStore(tmp_path / "store", create=True), tmp_path / "tokens.toml"
    publish(store, "plain")
    good = '[[token]]\nname = "anonymous"\nclassify = ["*"]\nread = true\n'
    tokens.write_text(good)
    variables = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_TOKENS": str(tokens),
    }
    with Server(".", tmp_path / "home", **variables) as server:
        targets = [{"targets": [f"127.0.0.1:{server.port}"]}]
        with Prometheus(tmp_path, targets, rules=shortened(tmp_path)) as prometheus:
            eventually(lambda: prometheus.query("up == 1"))
            assert server.classify("plain", png(1)).status == 200
            becomes(prometheus, "GatewayStoreUnreadable", False)
            tokens.write_text("[[token]")
            becomes(prometheus, "GatewayTokensUnusable", True)
            tokens.write_text(good)
            becomes(prometheus, "GatewayTokensUnusable", False)
            (tmp_path / "store").rename(tmp_path / "away")
            becomes(prometheus, "GatewayStoreUnreadable", True)
            assert server.classify("plain", png(2)).status == 200  # it is loaded
            (tmp_path / "away").rename(tmp_path / "store")
            becomes(prometheus, "GatewayStoreUnreadable", False)
            assert not firing(prometheus)
            server.process.terminate()
            server.process.wait()
            for alert in ("GatewayDown", "GatewayAllGone"):
                becomes(prometheus, alert, True)
            with Server(".", tmp_path / "home", port=server.port, **variables):
                for alert in ("GatewayDown", "GatewayAllGone"):
                    becomes(prometheus, alert, False)
