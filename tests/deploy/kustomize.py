"""What `kubectl apply -k` applies, as far as deploy/kubernetes asks for it.

`kubectl kustomize` gives the same (a test compares them where it is installed).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.deploy.manifests import read


def resources(folder: Path, *optional: str) -> list[Any]:
    """The objects of a folder's kustomization, with files of it that it leaves out; images are
    replaced. Secrets that it generates are left out, and so are components.
    """
    kustomization = read(folder / "kustomization.yaml")
    images = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in kustomization["images"]}
    found = [read(folder / file) for file in (*kustomization["resources"], *optional)]
    for one in found:
        for container in containers(one):
            container["image"] = images[container["image"]]
    return found


def containers(resource: Any) -> list[Any]:
    """Those of a Deployment, a Job or a CronJob."""
    spec = resource.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    return spec.get("template", {}).get("spec", {}).get("containers", [])


def by_name(found: list[Any]) -> dict[str, Any]:
    """Kind/name -> object."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
