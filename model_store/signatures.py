"""Signatures of versions as they are stored: an OCI image manifest, in cosign's format.

Who signed, and whether that is so, is the subject of `exchange/signing.py`.
Format: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from model_store.blobs import digest_of
from model_store.canonical_json import decode_json, encode_json
from model_store.errors import Malformed, Unstorable
from model_store.manifest import IMAGE_MANIFEST, MAX_MANIFEST_BYTES, Descriptor

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"  # annotation of a layer
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
MAX_PAYLOAD_BYTES = 64 * 2**10  # ours have some 250
MAX_SIGNATURES = 256  # of one version; with the limit above, 16 MiB to read at worst


@dataclass(frozen=True, slots=True)
class Signature:
    """One signer's word for one manifest; nothing in it is true until `verify` says so.

    Raises Unstorable for a payload over the limit.
    """

    payload: bytes  # what is signed, as found
    base64: str  # the signature of it
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])  # others', kept as found

    def __post_init__(self) -> None:
        if (size := len(self.payload)) > MAX_PAYLOAD_BYTES:
            raise Unstorable(f"signature payload: {size} bytes, limit {MAX_PAYLOAD_BYTES}")


def signature_manifest(signatures: Sequence[Signature]) -> tuple[bytes, list[bytes]]:
    """The OCI image manifest that holds these signatures, and the blobs it refers to.

    Equal signatures in equal order give equal bytes. Raises Unstorable for none or too many.
    """
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise Unstorable(f"{len(signatures)} signatures, expected 1 to {MAX_SIGNATURES}")
    layers = [_layer(signature) for signature in signatures]
    # An image's config, as cosign writes it: registries that know only images take it too.
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    image = {"architecture": "", "config": {}, "os": "", "rootfs": rootfs}
    config = encode_json(image, "signature config")
    described = Descriptor.of(IMAGE_CONFIG, config).to_json()
    document = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": described}
    manifest = encode_json({**document, "layers": layers}, "signature manifest")
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise Unstorable(f"signature manifest: {len(manifest)} bytes, limit {MAX_MANIFEST_BYTES}")
    return manifest, [config, *dict.fromkeys(signature.payload for signature in signatures)]


def _layer(signature: Signature) -> dict[str, Any]:
    payload, annotations = signature.payload, {**signature.annotations, SIGNATURE: signature.base64}
    return Descriptor(SIMPLE_SIGNING, digest_of(payload), len(payload), annotations).to_json()


def read_signatures(manifest: bytes, read: Callable[[Descriptor], bytes]) -> list[Signature]:
    """The inverse of `signature_manifest`; `read` gets the payloads, from anywhere.

    Layers of other media types are ignored. Raises Malformed, and what `read` raises.
    """
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise Malformed(f"signature manifest: {len(manifest)} bytes, limit {MAX_MANIFEST_BYTES}")
    found = decode_json(manifest, "signature manifest")
    document = cast(dict[str, Any], found) if isinstance(found, dict) else {}
    if (document.get("schemaVersion"), document.get("mediaType")) != (2, IMAGE_MANIFEST):
        raise Malformed(f"signature manifest: expected version 2 and mediaType {IMAGE_MANIFEST}")
    if not isinstance(document.get("layers"), list):
        raise Malformed("signature manifest: layers are not a list")
    layers = [Descriptor.from_json(layer) for layer in cast(list[object], document["layers"])]
    layers = [layer for layer in layers if layer.media_type == SIMPLE_SIGNING]
    if len(layers) > MAX_SIGNATURES:
        raise Malformed(f"signature manifest: {len(layers)} signatures, limit {MAX_SIGNATURES}")
    return [_read_signature(layer, read) for layer in layers]


def _read_signature(layer: Descriptor, read: Callable[[Descriptor], bytes]) -> Signature:
    if layer.size > MAX_PAYLOAD_BYTES:
        raise Malformed(f"signature payload: {layer.size} bytes, limit {MAX_PAYLOAD_BYTES}")
    if SIGNATURE not in layer.annotations:
        raise Malformed(f"signature manifest: a layer has no annotation {SIGNATURE}")
    payload = read(layer)
    if (len(payload), digest_of(payload)) != (layer.size, layer.digest):
        raise Malformed(f"signature payload: {len(payload)} bytes that are not {layer.digest}")
    annotations = dict(layer.annotations)
    return Signature(payload, annotations.pop(SIGNATURE), annotations)
