"""What deploy/ says of the gateway's process: by Kubernetes, Compose and systemd."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.confined import Confinement
from tests.service.servers import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
GATEWAY, EVOLUTION = DEPLOY / "Containerfile", DEPLOY / "evolution" / "Containerfile"
UNIT = DEPLOY / "systemd" / "munet-gateway.service"
BENTO = "/home/bentoml/bento"  # in the image, where its server is started too
IMAGE_USER = 1034
CHECKOUT = "/opt/munet"  # of the systemd unit
PRIVATE_TMP = 2**30  # bytes: systemd sets no size
_QUANTITY = re.compile(r"(\d+)([KMG]?)i?b?", re.IGNORECASE)


def read(path: Path) -> Any:
    """A file of YAML with one document."""
    return yaml.safe_load(path.read_text())


def size(text: str | int) -> int:
    """Bytes of 1Gi, 512m and the like."""
    found = _QUANTITY.fullmatch(str(text))
    assert found, text
    return int(found[1]) * 2 ** (10 * " KMG".index(found[2].upper() or " "))


def of_image(file: Path, home: str) -> dict[str, str]:
    """The variables that a Containerfile sets, but for PATH, and its user's home."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("ENV ")]
    given = dict(line.removeprefix("ENV ").split("=", 1) for line in lines)
    return {**given, "HOME": home} | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


def entrypoint(file: Path) -> list[str]:
    """What a Containerfile starts, by this environment's Python."""
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("ENTRYPOINT ")]
    program, *arguments = json.loads(line.removeprefix("ENTRYPOINT "))
    return [*by_python(program), *arguments]


def by_python(program: str) -> list[str]:
    """A program of the image, by this environment's Python."""
    return [sys.executable] if program == "python" else [sys.executable, "-m", program]


def in_kubernetes(bento: Path, secret: Mapping[str, str]) -> Confinement:
    """As the Deployment says; `secret` is that of the store's credentials."""
    pod = read(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [next(iter(one)) for one in container["envFrom"]] == ["configMapRef", "secretRef"]
    own = {one["name"]: one["value"] for one in container["env"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    writable, mounted = {}, {BENTO: bento}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            writable[mount["mountPath"]] = size(volume["emptyDir"]["sizeLimit"])
        else:
            assert volume["secret"]["secretName"] == "munet-gateway-tokens"
            mounted[f"{mount['mountPath']}/tokens.toml"] = KUBERNETES / "tokens.toml"
    settings = read(KUBERNETES / "settings.yaml")["data"]
    return Confinement(
        user=pod["securityContext"]["runAsUser"],
        group=pod["securityContext"]["runAsGroup"],
        environment={**of_image(GATEWAY, "/home/bentoml"), **settings, **secret, **own},
        memory=size(container["resources"]["limits"]["memory"]),
        read_only_root=container["securityContext"]["readOnlyRootFilesystem"],
        writable=writable,
        mounted=mounted,
        folder=BENTO,
    )


def in_compose(bento: Path, store: Path) -> Confinement:
    """As the Compose file says, with MUNET_STORE_DIR set to `store`."""
    service = read(DEPLOY / "compose.yaml")["services"]["gateway"]
    mounted = {BENTO: bento}
    for volume in service["volumes"]:
        source, path, mode = re.sub(r"^\$\{MUNET_STORE_DIR:[^}]*\}", str(store), volume).split(":")
        assert mode == "ro"
        mounted[path] = DEPLOY / source
    writable = {}
    for volume in service["tmpfs"]:
        path, _, limit = volume.partition(":size=")
        writable[path] = size(limit)
    return Confinement(
        user=IMAGE_USER,
        group=IMAGE_USER,
        environment={**of_image(GATEWAY, "/home/bentoml"), **service["environment"]},
        memory=size(service["mem_limit"]),
        read_only_root=service["read_only"],
        writable=writable,
        mounted=mounted,
        folder=BENTO,
    )


def in_systemd(environment_file: Mapping[str, str], store: Path) -> Confinement:
    """As the unit says, with a store on this machine."""
    unit = lines_of(UNIT)
    given = dict(line.split("=", 1) for line in unit["Environment"])
    assert unit["EnvironmentFile"] == ["/etc/munet/gateway.env"]
    assert unit["PrivateTmp"] == ["yes"]
    (cache,) = unit["CacheDirectory"]
    return Confinement(
        user=IMAGE_USER,  # a number that is not root's
        group=IMAGE_USER,
        environment={**given, **environment_file},
        memory=size(unit["MemoryMax"][0]),
        read_only_root=unit["ProtectSystem"] == ["strict"],
        writable={"/tmp": PRIVATE_TMP, f"/var/cache/{cache}": PRIVATE_TMP},
        mounted={
            CHECKOUT: ROOT,
            "/etc/munet/tokens.toml": KUBERNETES / "tokens.toml",
            environment_file["MUNET_STORE"]: store,
        },
        folder="/",
    )


def in_job(
    file: Path, bento: Path, secret: Mapping[str, str], arguments: Sequence[str] = ()
) -> tuple[Confinement, list[str]]:
    """As a Job or CronJob says, and the command; `arguments` are put behind its own."""
    spec = read(file)["spec"]
    pod = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    data = read(KUBERNETES / "settings.yaml")["data"]
    given = {
        one["name"]: one.get("value") or data[one["valueFrom"]["configMapKeyRef"]["key"]]
        for one in container["env"]
    }
    evolves = container["image"] == "munet-evolution"
    checkout = {f"/opt/munet/{name}": ROOT / name for name in copied(EVOLUTION)}
    image = EVOLUTION if evolves else GATEWAY
    (volume,) = pod["volumes"]
    how = Confinement(
        user=pod["securityContext"]["runAsUser"],
        group=pod["securityContext"]["runAsGroup"],
        environment={**of_image(image, "/"), **secret, **given},
        memory=size(container["resources"]["limits"]["memory"]),
        read_only_root=container["securityContext"]["readOnlyRootFilesystem"],
        writable={"/tmp": min(size(volume["emptyDir"]["sizeLimit"]), 2**31)},
        mounted=checkout if evolves else {BENTO: bento},
        folder=container.get("workingDir", "/"),
    )
    command = container.get("command") or entrypoint(image)
    words = [re.sub(r"\$\((\w+)\)", lambda m: given[m[1]], word) for word in container["args"]]
    if command[0] == "python":
        command = [*by_python("python"), *command[1:]]
    return how, [*command, *words, *arguments]


def copied(file: Path) -> list[str]:
    """What a Containerfile copies out of the folder that it is built in."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [line[1] for line in lines if line[:1] == ["COPY"] and not line[1].startswith("--")]


def command_of_unit() -> list[str]:
    """What the unit starts, by this environment's Python, but for the port."""
    program, *arguments = lines_of(UNIT)["ExecStart"][0].split()
    assert program == f"{CHECKOUT}/.venv/bin/munet"
    assert arguments[-2] == "--port"
    return [sys.executable, f"{CHECKOUT}/munet.py", *arguments[:-2]]


def lines_of(unit: Path) -> dict[str, list[str]]:
    """Each directive's values; comments and sections are left out."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found
