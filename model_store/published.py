"""Reading what a ref points to: manifest, path spec, and the two together as one Published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from model_store.blobs import Blobs, Digest
from model_store.canonical_json import MAX_BYTES, decode_json
from model_store.errors import Malformed
from model_store.manifest import (
    AGENT_STATE,
    COMPONENT,
    MAX_MANIFEST_BYTES,
    MAX_SPEC_BYTES,
    PATH_SPEC,
    Manifest,
    TaskPath,
    require_agreement,
)


@dataclass(frozen=True, slots=True)
class Published:
    """One published version of a task."""

    task: str
    version: int
    digest: Digest  # of the manifest
    path: TaskPath
    sizes: Mapping[str, int]  # component name -> bytes
    created: str  # when the version was added: RFC 3339, UTC


def load_manifest(blobs: Blobs, digest: Digest) -> Manifest:
    """The manifest stored under a digest. Raises DamagedStore."""
    data = bytes(blobs.read(digest, limit=MAX_MANIFEST_BYTES))
    try:
        return Manifest.from_bytes(data)
    except Malformed as error:
        raise Malformed(f"manifest {digest} at {blobs.where(digest)}: {error}") from error


def load_state(blobs: Blobs, agent: str, digest: Digest) -> dict[str, Any]:
    """The document in an agent's state, given the manifest in its ref. Raises DamagedStore."""
    manifest = load_manifest(blobs, digest)
    try:
        state = manifest.layer(AGENT_STATE)
        data = bytes(blobs.read(state.digest, state.size, limit=MAX_BYTES))
        document = decode_json(data, "document")
        if not isinstance(document, dict):
            raise Malformed(f"document: {type(document).__name__}, expected a JSON object")
    except Malformed as error:
        raise Malformed(
            f"state of agent {agent}, manifest {digest} at {blobs.where(digest)}: {error}"
        ) from error
    return cast(dict[str, Any], document)


def path_of(blobs: Blobs, manifest: Manifest) -> TaskPath:
    """The path spec that a manifest names. Raises DamagedStore."""
    spec = manifest.layer(PATH_SPEC)
    data = bytes(blobs.read(spec.digest, spec.size, limit=MAX_SPEC_BYTES))
    path = TaskPath.from_bytes(data)
    require_agreement(manifest, path)
    return path


def load_path(
    blobs: Blobs, task: str, version: int, digest: Digest
) -> tuple[TaskPath, dict[str, int]]:
    """Path and component sizes of a version, given the digest in its ref. Raises DamagedStore."""
    manifest = load_manifest(blobs, digest)
    try:
        path = path_of(blobs, manifest)
        if path.task != task:
            raise Malformed(f"path spec: of task {path.task!r}, expected {task!r}")
    except Malformed as error:
        raise Malformed(
            f"version {version} of {task}, manifest {digest} at {blobs.where(digest)}: {error}"
        ) from error
    layers = [layer for layer in manifest.layers if layer.media_type == COMPONENT]
    for layer in layers:
        blobs.knows(layer.digest, layer.size)
    return path, {name: layer.size for name, layer in zip(path.components, layers, strict=True)}
