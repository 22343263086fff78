"""What a published version is: its path spec and its manifest, both canonical JSON.

The manifest is a valid OCI image manifest that follows the CNCF ModelPack specification, so that
registries and their tools take it as it is (FORMAT.md, "Path spec" and "Manifest").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from model_store.blobs import Digest, digest_of, parse_digest
from model_store.canonical_json import decode_json, encode_json, shown
from model_store.errors import InvalidName, Malformed, Unstorable
from model_store.names import require_name

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
PATH_SPEC = "application/vnd.cncf.model.weight.config.v1.raw"
COMPONENT = "application/vnd.cncf.model.weight.v1.raw"
AGENT = "application/vnd.munet.agent.v1+json"
AGENT_STATE = "application/vnd.munet.agent.state.v1+json"

TITLE = "org.opencontainers.image.title"
FILE_PATH = "org.cncf.model.filepath"

MAX_MANIFEST_BYTES = 4 * 2**20  # what every registry has to take
MAX_SPEC_BYTES = 4 * 2**20  # of a path spec: a hundred thousand labels
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskPath:
    """The path spec: everything about one published version of a task but its bytes.

    The store reads `task` and `components`; it keeps the rest as it is. Raises InvalidName or
    Unstorable for names, digests or field types that break the format.
    """

    task: str
    labels: tuple[str, ...]
    architecture: Json  # sizes of the network
    components: Mapping[str, Digest]  # in the order of the forward pass
    input: Json  # what the network takes: size, channels, resize method, antialias, scaling
    hyperparameters: Json
    metrics: Json  # quality, with the split it was measured on
    parameters: Json  # total and accounted
    lineage: Json  # parent, method, experiment, agent, generation, seed
    private: bool = False
    subpaths: tuple[Json, ...] = ()  # multipath only; components are named, not repeated
    extra: Json = field(default_factory=dict[str, Any])  # fields of later formats, kept as found

    def __post_init__(self) -> None:
        require_name("task", self.task)
        if not self.components:
            raise Unstorable(f"task {self.task}: no components, expected at least one")
        for name, digest in self.components.items():
            require_name("component", name)
            parse_digest(digest)
        for name, kinds in _FIELD_KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                found = type(getattr(self, name)).__name__
                raise Unstorable(f"task {self.task}: {name} is {found}, which it cannot be")
        if not all(isinstance(label, str) for label in cast(tuple[object, ...], self.labels)):
            raise Unstorable(f"task {self.task}: labels must be strings")
        if clash := sorted(set(self.extra) & _FIELDS):
            raise Unstorable(f"task {self.task}: extra repeats the fields {clash}")

    def to_json(self) -> dict[str, Any]:
        """The path spec as a JSON object; components become a list, which keeps their order."""
        document: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        document["components"] = [
            {"name": name, "digest": digest} for name, digest in self.components.items()
        ]
        document["labels"] = list(self.labels)
        document["subpaths"] = list(self.subpaths)
        return {**self.extra, **document}

    def to_bytes(self) -> bytes:
        """The bytes of the path spec blob."""
        data = encode_json(self.to_json(), f"path spec of {self.task}")
        if len(data) > MAX_SPEC_BYTES:
            found = f"{len(data)} bytes, limit {MAX_SPEC_BYTES}"
            raise Unstorable(f"path spec of {self.task}: {found}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "TaskPath":
        """The inverse of `to_bytes`. Raises Malformed."""
        if len(data) > MAX_SPEC_BYTES:
            raise Malformed(f"path spec: {len(data)} bytes, limit {MAX_SPEC_BYTES}")
        return cls.from_json(decode_json(data, "path spec"))

    @classmethod
    def from_json(cls, document: object) -> "TaskPath":
        """The inverse of `to_json`. Raises Malformed; fields it does not know go to `extra`."""
        spec = _object(document, "path spec")
        if missing := sorted(_FIELDS - set(spec)):
            raise Malformed(f"path spec: fields {missing} are missing")
        known = {name: spec[name] for name in _FIELDS}
        known["labels"] = tuple(_list(spec["labels"], "labels"))
        known["subpaths"] = tuple(
            _object(subpath, "subpath") for subpath in _list(spec["subpaths"], "subpaths")
        )
        extra = {name: value for name, value in spec.items() if name not in _FIELDS}
        try:
            known["components"] = _components(_list(spec["components"], "components"))
            return cls(**known, extra=extra)
        except (InvalidName, Unstorable) as error:
            raise Malformed(f"path spec: {error}") from error


_FIELDS = {entry.name for entry in fields(TaskPath)} - {"extra"}
_FIELD_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("architecture", "input", "hyperparameters", "metrics", "parameters"), Mapping),
    **dict.fromkeys(("lineage", "extra"), Mapping),
    **dict.fromkeys(("labels", "subpaths"), tuple),
    "private": bool,
}


def _components(items: list[Any]) -> dict[str, Digest]:
    components: dict[str, Digest] = {}
    for item in items:
        entry = _object(item, "component")
        name = require_name("component", entry.get("name"))
        if name in components:
            raise Malformed(f"path spec: component {name!r} twice")
        components[name] = parse_digest(entry.get("digest"))
    return components


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob as a manifest refers to it."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, media_type: str, data: bytes, file_name: str = "") -> "Descriptor":
        """Describes `data`, as a file of this name if one is given."""
        return cls(media_type, digest_of(data), len(data), _file(file_name) if file_name else {})

    def to_json(self) -> dict[str, Any]:
        """The OCI content descriptor."""
        document = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**document, "annotations": dict(self.annotations)} if self.annotations else document

    @classmethod
    def from_json(cls, document: object) -> "Descriptor":
        """The inverse of `to_json`. Raises Malformed."""
        fields_ = _object(document, "descriptor")
        size = fields_.get("size")
        if type(size) is not int or not 0 <= size < 2**63:  # OCI: a signed 64 bit integer
            raise Malformed(f"descriptor: size {shown(size)}, expected a number of bytes")
        try:
            digest = parse_digest(fields_.get("digest"))
        except InvalidName as error:
            raise Malformed(f"descriptor: {error}") from error
        media_type = _string(fields_.get("mediaType"), "descriptor: mediaType")
        return cls(media_type, digest, size, _annotations(fields_))


def _file(name: str) -> dict[str, str]:
    # The first is what ModelPack's tools read, the second what mounts an artifact as a directory.
    return {FILE_PATH: name, TITLE: name}


@dataclass(frozen=True, slots=True)
class Manifest:
    """An OCI image manifest, as far as the store writes and reads it."""

    artifact_type: str  # "" where there is none, as in cosign's manifests
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_bytes(self) -> bytes:
        """The bytes of the manifest blob."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": self.artifact_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        data = encode_json(document, "manifest")
        if len(data) > MAX_MANIFEST_BYTES:
            raise Unstorable(f"manifest: {len(data)} bytes, limit {MAX_MANIFEST_BYTES}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """The inverse of `to_bytes`. Raises Malformed; fields it does not know are ignored."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise Malformed(f"manifest: {len(data)} bytes, limit {MAX_MANIFEST_BYTES}")
        document = _object(decode_json(data, "manifest"), "manifest")
        if (document.get("schemaVersion"), document.get("mediaType")) != (2, IMAGE_MANIFEST):
            raise Malformed(f"manifest: expected schemaVersion 2 and mediaType {IMAGE_MANIFEST}")
        return cls(
            _string(document.get("artifactType", ""), "manifest: artifactType"),
            Descriptor.from_json(document.get("config")),
            tuple(Descriptor.from_json(item) for item in _list(document.get("layers"), "layers")),
            _annotations(document),
        )

    def layer(self, media_type: str) -> Descriptor:
        """The only layer of this type. Raises Malformed."""
        found = [layer for layer in self.layers if layer.media_type == media_type]
        if len(found) != 1:
            raise Malformed(f"manifest: {len(found)} layers of type {media_type}, expected one")
        return found[0]

    def blobs(self) -> list[Descriptor]:
        """Every blob the manifest names: the config and the layers."""
        return [self.config, *self.layers]

    @property
    def parts(self) -> list[Digest]:
        """The manifests that an agent's state names; what these name is needed too."""
        layers = self.layers if self.artifact_type == AGENT else ()
        return [layer.digest for layer in layers if layer.media_type == IMAGE_MANIFEST]


def path_manifest(path: TaskPath, sizes: Mapping[str, int]) -> tuple[Manifest, list[bytes]]:
    """The manifest of a path, and the blobs (path spec and config) that come with it.

    `sizes` gives the bytes of each component. Equal paths have equal manifests: no time is in it.
    """
    spec = path.to_bytes()
    layers = [Descriptor.of(PATH_SPEC, spec, "path.json")] + [
        Descriptor(COMPONENT, digest, sizes[name], _file(f"{name}.safetensors"))
        for name, digest in path.components.items()
    ]
    config = encode_json(
        {
            "descriptor": {"name": path.task},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        },
        "model config",
    )
    annotations = {TITLE: path.task}
    return Manifest(MODEL, Descriptor.of(MODEL_CONFIG, config), tuple(layers), annotations), [
        spec,
        config,
    ]


def agent_manifest(
    document: bytes, components: Mapping[Digest, int], parts: Mapping[Digest, int]
) -> tuple[Manifest, list[bytes]]:
    """The manifest of an agent's state or of a part of one, and the blobs that come with it.

    `components` and `parts` give the bytes of each component, and of the manifest of each part,
    that the document refers to.
    """
    layers = [Descriptor.of(AGENT_STATE, document)]
    layers += [Descriptor(COMPONENT, digest, size) for digest, size in components.items()]
    layers += [Descriptor(IMAGE_MANIFEST, digest, size) for digest, size in parts.items()]
    manifest = Manifest(AGENT, Descriptor.of(EMPTY_CONFIG, b"{}"), tuple(layers))
    return manifest, [document, b"{}"]


def require_agreement(manifest: Manifest, path: TaskPath) -> None:
    """The manifest is one of a path, and lists this path's components. Raises Malformed."""
    kinds = (manifest.artifact_type, manifest.config.media_type)
    if kinds != (MODEL, MODEL_CONFIG):
        raise Malformed(f"manifest: artifact and config are {kinds}, expected a model's")
    layers = [layer.digest for layer in manifest.layers if layer.media_type == COMPONENT]
    if layers != list(path.components.values()):
        raise Malformed("manifest: its component layers are not the components of its path spec")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{what}: {type(value).__name__}, expected a JSON object")
    return cast(dict[str, Any], value)


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed(f"{what}: {type(value).__name__}, expected a JSON list")
    return cast(list[Any], value)


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{what}: {type(value).__name__}, expected a string")
    return value


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    found = _object(document.get("annotations", {}), "annotations")
    return {key: _string(value, f"annotation {shown(key)}") for key, value in found.items()}
