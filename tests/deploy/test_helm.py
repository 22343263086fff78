"""The chart, rendered by Helm's own engine, gives the objects of deploy/kubernetes and variants."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import kustomize, manifests
from tests.deploy.kustomize import by_name, containers
from tests.service.servers import ROOT

CHART = manifests.DEPLOY / "helm"
ENGINE = ROOT / "build" / "helm"
JOBS, ALERTS = manifests.KUBERNETES / "jobs", manifests.KUBERNETES / "alerts"
PLACEHOLDER, RUNBOOKS = "https://munet.example/runbooks.md", "https://wiki.example.com/munet.md"
NIGHTLY = "7 1 * * *"
ALL_JOBS = {
    "gc": {"schedule": "17 3 * * *"},
    "backup": {"schedule": "47 * * * *"},
    "evolution": {"tasks": ["flowers"]},
}


def rendered(*values: dict[str, Any]) -> tuple[Any, list[Any]]:
    """What Helm's linter says, and for each of the values: the objects by kind and name, or why it
    refuses them.
    """
    if not ENGINE.exists():
        cannot = pytest.fail if os.environ.get("CI") else pytest.skip
        cannot("no Helm: .ci/packages installs tests/deploy/helm.lock to build/helm")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("rendering.py")), str(CHART)],
        input="".join(json.dumps(one) + "\n" for one in values),
        env={**os.environ, "PYTHONPATH": str(ENGINE)},
        capture_output=True,
        text=True,
        check=True,
    )
    lint, *files = map(json.loads, done.stdout.splitlines())
    return lint, [one.get("error") or _objects(one) for one in files]


def _objects(files: dict[str, str]) -> dict[str, Any]:
    found = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    return by_name(found)


def one(**values: Any) -> dict[str, Any]:
    _, (found,) = rendered(values)
    assert isinstance(found, dict), found
    return found


def test_it_gives_the_objects_of_kustomize() -> None:
    on = {"enabled": True}
    found = one(**ALL_JOBS, networkPolicy=on, serviceMonitor=on, prometheusRule=on)
    secret = found.pop("Secret/munet-gateway-tokens")
    assert secret["stringData"]["tokens.toml"] == (manifests.KUBERNETES / "tokens.toml").read_text()
    annotations = found["Deployment/munet-gateway"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations.pop("checksum/settings")  # a change of settings renews the pods
    expected = [
        *kustomize.resources(manifests.KUBERNETES, "networkpolicy.yaml", "servicemonitor.yaml"),
        manifests.read(ALERTS / "prometheusrule.yaml"),
        *kustomize.resources(JOBS, "backup.yaml", "evolution.yaml"),
    ]
    assert found == by_name(expected)


def test_what_is_off_is_not_there() -> None:
    assert set(one()) == {
        *by_name(kustomize.resources(manifests.KUBERNETES)), "Secret/munet-gateway-tokens"
    }  # fmt: skip
    found = one(autoscaling={"enabled": False}, replicas=3, tokens={"secret": "mine"})
    assert found["Deployment/munet-gateway"]["spec"]["replicas"] == 3
    assert "HorizontalPodAutoscaler/munet-gateway" not in found
    assert "Secret/munet-gateway-tokens" not in found
    volumes = found["Deployment/munet-gateway"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "tokens", "secret": {"secretName": "mine"}} in volumes


def test_alerts_link_to_the_runbooks_where_these_are() -> None:
    found = one(prometheusRule={"enabled": True, "runbooks": RUNBOOKS})
    rule = manifests.read(ALERTS / "prometheusrule.yaml")
    assert found["PrometheusRule/munet-gateway"] == moved(rule)
    _, (refusal,) = rendered({"prometheusRule": {"runbooks": "deploy/runbooks.md"}})
    assert isinstance(refusal, str)


def moved(rule: Any) -> Any:
    text = json.dumps(rule)
    assert text.count(f"{PLACEHOLDER}#") == text.count("runbook_url")
    return json.loads(text.replace(PLACEHOLDER, RUNBOOKS))


def test_evolution_by_a_schedule_is_that_of_kustomize() -> None:
    found = one(evolution={"tasks": ["flowers"], "schedule": NIGHTLY})
    name = "CronJob/munet-gateway-evolution"
    expected = by_name(kustomize.resources(JOBS, "evolution-nightly.yaml"))[name]
    assert found[name] == expected


def test_the_store_on_a_claim_is_mounted_by_whoever_needs_it() -> None:
    found = one(**ALL_JOBS, store={"claim": {"enabled": True, "storageClass": "nfs"}})
    claim = found["PersistentVolumeClaim/munet-gateway-store"]
    assert claim["spec"]["storageClassName"] == "nfs"
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert found["ConfigMap/munet-gateway"]["data"]["MUNET_STORE"] == "/store"
    for name, resource in found.items():
        for container in containers(resource):
            (mount,) = [each for each in container["volumeMounts"] if each["name"] == "store"]
            assert mount["mountPath"] == "/store"
            assert mount.get("readOnly", False) == name.startswith("Deployment")
    existing = one(store={"claim": {"enabled": True, "existing": "mine"}})
    assert not [name for name in existing if name.startswith("PersistentVolumeClaim")]
    assert "mine" in json.dumps(existing["Deployment/munet-gateway"])


def test_grpc_has_its_port_everywhere() -> None:
    found = one(grpc={"port": 8001}, networkPolicy={"enabled": True})
    assert found["ConfigMap/munet-gateway"]["data"]["MUNET_GRPC_PORT"] == "8001"
    (container,) = containers(found["Deployment/munet-gateway"])
    assert {"name": "grpc", "containerPort": 8001} in container["ports"]
    ports = found["Service/munet-gateway"]["spec"]["ports"]
    assert {"name": "grpc", "port": 8001, "targetPort": "grpc"} in ports
    (rule,) = found["NetworkPolicy/munet-gateway"]["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["http", "grpc"]


def test_a_service_account_stands_for_a_workload_of_the_cloud() -> None:
    annotations = {"iam.gke.io/gcp-service-account": "reader@project.iam.gserviceaccount.com"}
    found = one(
        **ALL_JOBS,
        serviceAccount={"create": True, "annotations": annotations},
        podLabels={"azure.workload.identity/use": "true"},
    )
    account = found["ServiceAccount/munet-gateway"]
    assert account["metadata"]["annotations"] == annotations
    for resource in found.values():
        if containers(resource):
            spec = resource["spec"].get("jobTemplate", resource)["spec"]["template"]
            assert spec["spec"]["serviceAccountName"] == "munet-gateway"
            assert spec["metadata"]["labels"]["azure.workload.identity/use"] == "true"


def test_every_variant_fits_the_schemas_of_kubernetes_and_the_linter() -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    everything = {
        **ALL_JOBS,
        "autoscaling": {"enabled": False},
        "grpc": {"port": 8001},
        "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]},
        "serviceAccount": {"create": True, "annotations": {"a/b": "c"}},
        "store": {"claim": {"enabled": True, "storageClass": "nfs"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    }
    lint, found = rendered({}, ALL_JOBS, everything)
    assert not lint["errors"]
    for objects in found:
        for resource in objects.values():
            schemas.validate(resource, schemas.latest_version(), strict=True)


def test_a_value_that_is_misspelt_is_refused() -> None:
    wrong = [
        {"grpc": {"prot": 8001}},
        {"grpc": {"port": "8001"}},
        {"store": {"claim": {"enabled": "yes"}}},
        {"setings": {}},
        {"evolution": {"tasks": "flowers"}},
    ]
    _, found = rendered(*wrong)
    for values, refusal in zip(wrong, found, strict=True):
        assert isinstance(refusal, str), values


@pytest.mark.parametrize("optional", [False, True])
def test_kubectl_makes_the_same_of_the_kustomization(optional: bool, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no program kubectl: install it to compare")
    folder = Path(shutil.copytree(manifests.KUBERNETES, tmp_path / "kubernetes"))
    if optional:
        for file in (folder / "kustomization.yaml", folder / "jobs" / "kustomization.yaml"):
            file.write_text(file.read_text().replace("# - ", "- ").replace("# comp", "comp"))
        alerts = folder / "alerts" / "kustomization.yaml"
        alerts.write_text(alerts.read_text().replace(PLACEHOLDER, RUNBOOKS))
        (folder / "jobs" / "kustomization.yaml").write_text(
            (folder / "jobs" / "kustomization.yaml")
            .read_text()
            .replace("  - evolution.yaml", "  #")
        )
    made = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    found = by_name([each for each in yaml.safe_load_all(made.stdout) if each["kind"] != "Secret"])
    if not optional:
        deployment = found["Deployment/munet-gateway"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]:
            if "secret" in volume:  # kubectl adds a digest to its name
                volume["secret"]["secretName"] = "munet-gateway-tokens"
        assert found == by_name(kustomize.resources(manifests.KUBERNETES))
        return
    assert found["PrometheusRule/munet-gateway"] == moved(
        manifests.read(ALERTS / "prometheusrule.yaml")
    )
    assert not [name for name in found if "runbooks" in name]
    for name in ("gc", "backup", "evolution"):
        (container,) = containers(found[f"CronJob/munet-gateway-{name}"])
        assert {"name": "store", "mountPath": "/store"} in container["volumeMounts"]
    assert found["ConfigMap/munet-gateway"]["data"]["MUNET_STORE"] == "/store"
