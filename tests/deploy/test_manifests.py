"""Kubernetes manifests and the Compose file agree with the code and with each other."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from typing import Any

import pytest
import yaml

from model_store.files.limits import parse_size
from service.access import Access
from service.app import create_app
from service.settings import LONGEST_DEADLINE_MS, OTHERS, PREFIX, Settings
from tests.deploy.manifests import size
from tests.service.servers import ROOT

DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "kubernetes"
LABELS = {"app.kubernetes.io/name": "munet-gateway"}
PORT = 3000  # BentoML's default, as in its images


def manifest(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture
def pod() -> Any:
    return manifest("deployment.yaml")["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    (found,) = pod["containers"]
    return found


def settings(environment: dict[str, str]) -> Settings:
    """As the gateway reads them; a name that it would not read is an error."""
    known = {PREFIX + name for name in (*OTHERS, *(one.name.upper() for one in fields(Settings)))}
    assert {name for name in environment if name.startswith(PREFIX)} <= known
    return Settings.from_environment(environment)


def in_kubernetes(container: Any) -> Settings:
    own = {one["name"]: one["value"] for one in container["env"]}
    return settings({**manifest("settings.yaml")["data"], **own})


def in_compose() -> Settings:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    return settings(service["environment"])


def test_kustomization_names_every_manifest() -> None:
    kustomization = manifest("kustomization.yaml")
    optional = {
        *("kustomization.yaml", "metrics-adapter.yaml"),
        *("servicemonitor.yaml", "networkpolicy.yaml"),  # commented out
    }
    manifests = {path.name for path in FOLDER.glob("*.yaml")}
    assert set(kustomization["resources"]) == manifests - optional
    for file in kustomization["resources"]:
        assert "namespace" not in manifest(file)["metadata"]


def test_manifests_fit_the_schemas_of_kubernetes() -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    for file in manifest("kustomization.yaml")["resources"]:
        schemas.validate(manifest(file), schemas.latest_version(), strict=True)


def test_everything_means_the_same_pods(container: Any) -> None:
    deployment, service = manifest("deployment.yaml"), manifest("service.yaml")
    assert deployment["spec"]["selector"]["matchLabels"] == LABELS
    assert deployment["spec"]["template"]["metadata"]["labels"] == LABELS
    assert service["spec"]["selector"] == LABELS
    assert manifest("disruption.yaml")["spec"]["selector"]["matchLabels"] == LABELS
    assert manifest("servicemonitor.yaml")["spec"]["selector"]["matchLabels"] == LABELS
    assert service["metadata"]["labels"] == LABELS  # the monitor selects services
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == PORT
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    (endpoint,) = manifest("servicemonitor.yaml")["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(PORT)


def test_probes_ask_what_the_gateway_answers(container: Any) -> None:
    paths = {getattr(route, "path", None) for route in create_app(Settings("unused")).routes}
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness")}
    probes["readiness"] = container["readinessProbe"]["httpGet"]
    assert {probe["port"] for probe in probes.values()} == {"health"}
    assert {probe["path"] for probe in probes.values()} <= paths
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert in_kubernetes(container).health_port == ports["health"]  # a thread of its own answers
    assert probes["readiness"]["path"] == "/readyz"
    assert probes["liveness"]["path"] == "/livez"  # restarting helps no gateway without a store
    assert manifest("servicemonitor.yaml")["spec"]["endpoints"][0]["path"] in paths


def test_a_pod_has_the_time_to_drain(pod: Any, container: Any) -> None:
    drain_s = in_kubernetes(container).drain_s
    readiness = container["readinessProbe"]
    assert drain_s > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > drain_s + LONGEST_DEADLINE_MS / 1e3
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    grace_s = int(compose["stop_grace_period"].removesuffix("s"))
    assert grace_s > in_compose().drain_s + LONGEST_DEADLINE_MS / 1e3


def test_nothing_runs_as_root_or_writes_but_where_it_may(pod: Any, container: Any) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    writable = {"/tmp", "/cache"}
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert {path for path, one in mounts.items() if not one.get("readOnly")} == writable
    assert {one["name"] for one in mounts.values()} == {one["name"] for one in pod["volumes"]}
    own = {one["name"]: one["value"] for one in container["env"]}
    for name in ("MUNET_CACHE", "MUNET_COMPILATION_CACHE", "BENTOML_HOME"):
        assert own[name].startswith(tuple(f"{folder}/" for folder in writable))


def test_a_cache_takes_at_most_half_of_its_volume(pod: Any, container: Any) -> None:
    """A pod that writes more than its volume's size is evicted, also where its disk has room."""
    own = {one["name"]: one["value"] for one in container["env"]}
    (volume,) = [one for one in pod["volumes"] if one["name"] == "cache"]
    assert 2 * parse_size(own["MUNET_CACHE_BYTES"]) <= size(volume["emptyDir"]["sizeLimit"])


def test_the_autoscaler_follows_a_metric_that_the_adapter_makes() -> None:
    spec = manifest("autoscaling.yaml")["spec"]
    assert spec["scaleTargetRef"]["name"] == manifest("deployment.yaml")["metadata"]["name"]
    assert "replicas" not in manifest("deployment.yaml")["spec"]  # each apply would undo it
    (metric,) = spec["metrics"]
    (rule,) = manifest("metrics-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert re.match(r"munet_offered_work_seconds_total\{", rule["seriesQuery"])


def test_one_slow_answer_takes_no_pod_out(container: Any) -> None:
    """All that are overloaded would go together."""
    for kind in ("readiness", "liveness"):
        assert container[f"{kind}Probe"]["failureThreshold"] >= 3
        assert container[f"{kind}Probe"]["timeoutSeconds"] >= 2


def test_settings_are_settings(container: Any) -> None:
    for found in (in_kubernetes(container), in_compose()):
        assert found.tokens == "/etc/munet/tokens.toml"
        assert found.workers == 1  # a container does not replace a worker that died


def test_the_tokens_let_everybody_classify_and_nobody_administer() -> None:
    path = FOLDER / "tokens.toml"
    assert path.read_text().count("[[token]]") == 1
    Access(str(path))
    assert "admin" not in re.sub(r"#.*", "", path.read_text())
    (secret,) = manifest("kustomization.yaml")["secretGenerator"]
    assert secret["files"] == [f"tokens.toml={os.path.basename(path)}"]


def test_compose_mounts_what_there_is() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists(), source
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")
    targets = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert f"gateway:{PORT}" in targets


def test_tokens_are_mounted_so_that_the_next_file_is_seen(container: Any) -> None:
    """Of a file that is mounted alone the old one stays, and no token could be taken back."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    tokens = compose["environment"]["MUNET_TOKENS"]
    mounts = [volume.split(":")[:2] for volume in compose["volumes"]]
    (source,) = [source for source, place in mounts if tokens.startswith(place)]
    assert (DEPLOY / source).is_dir()
    assert (DEPLOY / source / os.path.basename(tokens)).is_file()
    assert not [mount for mount in container["volumeMounts"] if "subPath" in mount]


def test_grafana_finds_its_data_and_its_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "gateway.yaml").read_text())[
        "providers"
    ]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert any(path.startswith(provider["options"]["path"] + "/") for path in mounted)
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for x, y, w, h in places:
        assert x + w <= 24
        overlapping = [
            other for other in places
            if other[0] < x + w and x < other[0] + other[2]
            and other[1] < y + h and y < other[1] + other[3]
        ]  # fmt: skip
        assert overlapping == [(x, y, w, h)]
    assert {
        panel.get("datasource", {}).get("uid", "${datasource}") for panel in dashboard["panels"]
    } == {"${datasource}"}
