"""Reading what a ref points to: manifest, path spec, and the two together as one Published."""

from collections.abc import Mapping
from dataclasses import dataclass

from model_store.blobs import Blobs, Digest
from model_store.canonical_json import decode_json
from model_store.errors import Malformed
from model_store.manifest import (
    COMPONENT,
    MAX_MANIFEST_BYTES,
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
    size = blobs.size(digest)
    if size > MAX_MANIFEST_BYTES:
        raise Malformed(
            f"manifest {digest} at {blobs.path(digest)}: {size} bytes, limit {MAX_MANIFEST_BYTES}"
        )
    try:
        return Manifest.from_bytes(bytes(blobs.read(digest)))
    except Malformed as error:
        raise Malformed(f"manifest {digest} at {blobs.path(digest)}: {error}") from error


def load_path(
    blobs: Blobs, task: str, version: int, digest: Digest
) -> tuple[TaskPath, dict[str, int]]:
    """Path and component sizes of a version, given the digest in its ref. Raises DamagedStore."""
    manifest = load_manifest(blobs, digest)
    try:
        spec = manifest.layer(PATH_SPEC)
        data = bytes(blobs.read(spec.digest, spec.size))
        path = TaskPath.from_json(decode_json(data, "path spec"))
        require_agreement(manifest, path)
        if path.task != task:
            raise Malformed(f"path spec: of task {path.task!r}, expected {task!r}")
    except Malformed as error:
        raise Malformed(
            f"version {version} of {task}, manifest {digest} at {blobs.path(digest)}: {error}"
        ) from error
    layers = [layer for layer in manifest.layers if layer.media_type == COMPONENT]
    return path, {name: layer.size for name, layer in zip(path.components, layers, strict=True)}
