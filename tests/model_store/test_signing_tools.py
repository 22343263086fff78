"""Tools that are not ours: OpenSSL verifies what we sign and signs what we accept; skopeo copies a
signed version and its signatures between repositories of a real registry.
"""

import base64
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import digest_of, encode
from model_store.exchange.signing import (
    PrivateKey,
    fingerprint,
    load_private_key,
    load_public_keys,
    sign,
    verify,
)
from model_store.exchange.tags import signature_tag
from model_store.manifest import IMAGE_MANIFEST, path_manifest
from model_store.signatures import Signature, read_signatures, signature_manifest
from tests.model_store.registries import program
from tests.model_store.registries import registry as docker_registry
from tests.model_store.samples import arrays, path
from tests.model_store.signing_keys import (
    DIGEST,
    KEY,
    KEYS,
    STRANGER,
    each_kind,
    private_pem,
    public_pem,
)


def version() -> tuple[bytes, list[bytes]]:
    """The manifest of a published version, and the blobs it needs."""
    head = encode(arrays(0))
    of_task = path("cmaterdb/bangla", {"head": digest_of(head)})
    manifest, blobs = path_manifest(of_task, {"head": len(head)})
    return manifest.to_bytes(), [head, *blobs]


MANIFEST, BLOBS = version()
VERSION = digest_of(MANIFEST)


# OpenSSL


@each_kind
def test_openssl_verifies_what_we_sign(tmp_path: Path, key: PrivateKey) -> None:
    signature = sign(DIGEST, "cmaterdb/bangla", key)
    payload, raw, public = (tmp_path / name for name in ("payload", "signature", "key.pub"))
    payload.write_bytes(signature.payload)
    raw.write_bytes(base64.b64decode(signature.base64))
    public.write_bytes(public_pem(key))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        keys = ("-pubin", "-inkey", public)
        done = openssl("pkeyutl", "-verify", "-rawin", *keys, "-sigfile", raw, "-in", payload)
        assert done == b"Signature Verified Successfully\n"
    else:
        done = openssl("dgst", "-sha256", "-verify", public, "-signature", raw, payload)
        assert done == b"Verified OK\n"


@each_kind
def test_we_accept_what_openssl_signs(tmp_path: Path, key: PrivateKey) -> None:
    payload, private = tmp_path / "payload", tmp_path / "key.pem"
    payload.write_bytes(sign(DIGEST, "cmaterdb/bangla", key).payload)
    private.write_bytes(private_pem(key))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = openssl("pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", payload)
    else:
        raw = openssl("dgst", "-sha256", "-sign", private, payload)
    signature = Signature(payload.read_bytes(), base64.b64encode(raw).decode())
    assert verify(DIGEST, [signature], [key.public_key()]) == fingerprint(key.public_key())


def test_keys_and_fingerprints_are_openssls(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    openssl("genpkey", *curve, "-aes256", "-pass", "pass:secret", "-out", private)
    openssl("pkey", "-in", private, "-passin", "pass:secret", "-pubout", "-out", public)
    signature = sign(DIGEST, "a", load_private_key(private, b"secret"))
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    assert verify(DIGEST, [signature], load_public_keys(public)) == digest_of(der)


def openssl(*arguments: str | Path) -> bytes:
    command = [program("openssl", "openssl"), *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout


# skopeo and a registry. Debian's skopeo finds and copies signatures, and verifies none.


@dataclass(frozen=True)
class Registry:
    """A registry on this machine, and a folder for what skopeo needs."""

    address: str
    folder: Path

    def put(self, repository: str, tag: str, manifest: bytes, blobs: Sequence[bytes]) -> None:
        """Push a manifest and its blobs."""
        base = f"http://{self.address}/v2/{repository}"
        for blob in blobs:
            with urllib.request.urlopen(f"{base}/blobs/uploads/", b"", timeout=10) as answer:
                place = answer.headers["Location"]
            self._put(f"{place}&digest={digest_of(blob)}", blob, "application/octet-stream")
        self._put(f"{base}/manifests/{tag}", manifest, IMAGE_MANIFEST)

    @staticmethod
    def _put(url: str, data: bytes, media_type: str) -> None:
        headers = {"Content-Type": media_type}
        request = urllib.request.Request(url, data, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 201

    def publish(self, repository: str, *signatures: Signature) -> None:
        """Push the version as tag v1, and these signatures of it."""
        self.put(repository, "v1", MANIFEST, BLOBS)
        if signatures:
            self.put(repository, signature_tag(VERSION), *signature_manifest(signatures))

    def get(self, repository: str, path: str) -> bytes:
        """What the registry has under manifests/… or blobs/…"""
        url, headers = f"http://{self.address}/v2/{repository}/{path}", {"Accept": IMAGE_MANIFEST}
        with urllib.request.urlopen(
            urllib.request.Request(url, None, headers), timeout=10
        ) as answer:
            return answer.read()

    def copy(self, repository: str, rule: Mapping[str, Any], target: str) -> str:
        """Copy v1 by skopeo under a rule of its policy; what it says where it refuses."""
        policy = self.folder / "policy.json"
        scopes = {"docker": {f"{self.address}/{repository}": [rule]}}
        policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": scopes}))
        options = ["--policy", policy, "--registries.d", self.folder / "registries.d"]
        copy = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        source = f"docker://{self.address}/{repository}:v1"
        done = subprocess.run(
            [program("skopeo", "skopeo"), *options, *copy, source, target],
            capture_output=True,
            text=True,
            timeout=60,
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            check=False,
        )
        return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry on a free port."""
    folder = tmp_path_factory.mktemp("registry")
    attachments = {"default-docker": {"use-sigstore-attachments": True}}
    (folder / "registries.d").mkdir()
    (folder / "registries.d" / "all.yaml").write_text(json.dumps(attachments))
    with docker_registry(folder) as server:
        yield Registry(server.host, folder)


def test_skopeo_reads_our_signatures_and_we_read_its(registry: Registry) -> None:
    signatures = [sign(VERSION, "cmaterdb/bangla", key) for key in KEYS.values()]
    registry.publish("models/source", *signatures)
    accept = {"type": "insecureAcceptAnything"}
    copied = f"docker://{registry.address}/models/copied:v1"
    assert registry.copy("models/source", accept, copied) == ""
    assert registry.get("models/copied", "manifests/v1") == MANIFEST
    # Written again by skopeo, from what it read of ours.
    manifest = registry.get("models/copied", f"manifests/{signature_tag(VERSION)}")
    found = read_signatures(
        manifest, lambda layer: registry.get("models/copied", f"blobs/{layer.digest}")
    )
    assert found == signatures
    for key in KEYS.values():
        assert verify(VERSION, found, [key.public_key()]) == fingerprint(key.public_key())


def test_skopeo_asks_each_signature_and_refuses_without_any(registry: Registry) -> None:
    (registry.folder / "key.pub").write_bytes(public_pem(KEY))
    rule = {"type": "sigstoreSigned", "keyPath": str(registry.folder / "key.pub")}
    target = f"dir:{registry.folder / 'asked'}"
    registry.publish("models/asked")
    said = registry.copy("models/asked", rule, target)
    assert "A signature was required, but no signature exists" in said
    registry.publish("models/asked", *[sign(VERSION, "a", STRANGER) for _ in range(3)])
    said = registry.copy("models/asked", rule, target)
    assert "None of the signatures were accepted" in said
    assert len(said.partition("reasons: ")[2].split("; ")) == 3
