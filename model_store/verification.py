"""Reads and checks everything in a store: refs, manifests, path specs, the bytes of every blob."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_store.blobs import Blobs, Digest
from model_store.errors import BlobNotFound, CorruptRef, DamagedStore, InvalidName
from model_store.manifest import COMPONENT, Descriptor
from model_store.names import unquote
from model_store.published import load_manifest, load_path
from model_store.refs import Refs
from model_store.tensors import decode

_OWNER = r"refs/(?:tasks|agents)/(?P<owner>[^/]+)"
_DIRECTORIES = re.compile(rf"blobs(?:/sha256)?|refs(?:/tasks|/agents)?|tmp|{_OWNER}")
_FILES = re.compile(
    r"lock|tmp/~[^/]+|refs/tasks/~[^/]+|blobs/sha256/[0-9a-f]{64}"
    r"|refs/tasks/(?P<owner>[^/]+)/(?:live|v[1-9][0-9]{0,8})"
)
_AGENT_FILES = re.compile(r"refs/agents/(?P<owner>[^/]+)/state")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found wrong. A warning harms nobody; an error will reach whoever reads it."""

    severity: Literal["error", "warning"]
    path: str  # of the file
    digest: Digest | None  # of the blob, or of the manifest a ref names
    message: str


def verify(blobs: Blobs, refs: Refs, root: Path) -> list[Problem]:
    """Everything that is wrong with a store; empty when it is sound.

    Unreachable blobs are hashed too, because `put` would take them for the real ones.
    """
    problems: list[Problem] = []
    needed: dict[Digest, Descriptor] = {}
    for task in refs.tasks():
        problems += _verify_task(blobs, refs, task, needed)
    for agent in refs.agents():
        problems += _verify_agent(blobs, refs, agent, needed)
    present = {Digest("sha256:" + entry.name) for entry in blobs.all()}
    for digest in sorted(present):
        problems += _verify_blob(blobs, digest, needed.get(digest))
    for digest in sorted(needed.keys() - present):
        message = f"blob {digest} is missing; restore {blobs.path(digest)} from a copy"
        problems.append(Problem("error", str(blobs.path(digest)), digest, message))
    for path in _unknown_files(root):
        problems.append(Problem("warning", str(path), None, f"{path} is not part of a store"))
    return problems


def _verify_task(
    blobs: Blobs, refs: Refs, task: str, needed: dict[Digest, Descriptor]
) -> Iterator[Problem]:
    """Checks the refs of a task and what they name; adds the blobs they need to `needed`."""
    versions = refs.versions(task)
    for number in versions:
        path = refs.version_path(task, number)
        try:
            digest = refs.version(task, number)
        except CorruptRef as error:
            yield Problem("error", str(path), None, str(error))
            continue
        if digest is None:
            continue  # removed since it was listed
        try:
            load_path(blobs, task, number, digest)
            needed |= {blob.digest: blob for blob in load_manifest(blobs, digest).blobs()}
        except DamagedStore as error:
            yield Problem("error", str(path), digest, str(error))
    live_path = refs.live_path(task)
    try:
        live = refs.live_version(task)
    except CorruptRef as error:
        yield Problem("error", str(live_path), None, str(error))
        return
    if live is not None and live not in versions and refs.version(task, live) is None:
        message = f"ref {live_path} names v{live}, which does not exist; make another version live"
        yield Problem("error", str(live_path), None, message)


def _verify_agent(
    blobs: Blobs, refs: Refs, agent: str, needed: dict[Digest, Descriptor]
) -> Iterator[Problem]:
    digest = None
    try:
        digest = refs.agent(agent)
        if digest:
            needed |= {blob.digest: blob for blob in load_manifest(blobs, digest).blobs()}
    except DamagedStore as error:
        yield Problem("error", str(refs.agent_path(agent)), digest, str(error))


def _verify_blob(blobs: Blobs, digest: Digest, needed: Descriptor | None) -> Iterator[Problem]:
    try:
        data = blobs.read(digest, needed.size if needed else None)
        if needed and needed.media_type == COMPONENT:
            decode(data)
    except DamagedStore as error:
        if isinstance(error, BlobNotFound) and not needed:
            return  # gc removed it since it was listed
        message = str(error)
        if str(digest) not in message:
            message = f"blob {digest} at {blobs.path(digest)}: {message}"
        yield Problem("error", str(blobs.path(digest)), digest, message)


def _unknown_files(root: Path) -> Iterator[Path]:
    """What the format does not provide for; temporary files are gc's business."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        kinds = (_DIRECTORIES,) if path.is_dir() else (_FILES, _AGENT_FILES)
        match = next((found for kind in kinds if (found := kind.fullmatch(name))), None)
        if not match or not _is_owner(match.groupdict().get("owner")):
            yield path


def _is_owner(file_name: str | None) -> bool:
    """Whether this quotes the name of a task or an agent, or the path has no such part."""
    try:
        return file_name is None or bool(unquote(file_name))
    except InvalidName:
        return False
