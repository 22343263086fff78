"""What the versions of tasks are called in OCI layouts and registries, where "/" cannot be written.

A tag only helps to find a version: which task it is of stands in its path spec.
"""

import hashlib
import re
from collections.abc import Iterable

from model_store.blobs import Digest, parse_digest

_PLAIN_CHARACTERS = 100  # of the 128 a registry takes; the rest is for the version
_SEPARATOR = "--"
_VERSION = re.compile(r"(.+)\.v([1-9][0-9]{0,8})")
_SIGNATURES = re.compile(r"sha256-[0-9a-f]{64}\.sig")  # next to the version they are of
_HASHED = re.compile(r".*-[0-9a-f]{8}")


def tag_of(task: str) -> str:
    """The tag of a task's live version: the task id with "--" for "/", if that can be told apart
    from every other tag made here; else something like it that ends with a hash of the id.
    """
    tag = task.replace("/", _SEPARATOR)
    if _is_plain(task, tag):
        return tag
    digest = hashlib.sha256(task.encode()).hexdigest()[:8]
    slug = tag.lstrip(".-")[: _PLAIN_CHARACTERS - len(digest) - 1]
    return f"{slug or 'task'}-{digest}"


def _is_plain(task: str, tag: str) -> bool:
    segments = task.split("/")
    return (
        len(tag) <= _PLAIN_CHARACTERS
        and not task.startswith(".")
        and _SEPARATOR not in task
        and not any(segment.startswith("-") or segment.endswith("-") for segment in segments)
        and not _VERSION.fullmatch(tag)
        and not _HASHED.fullmatch(tag)
    )


def version_tag(tag: str, version: int) -> str:
    """The tag of one version of the task that has this tag."""
    return f"{tag}.v{version}"


def by_task(tags: Iterable[str]) -> dict[str, list[str]]:
    """Tag of a live version -> tags of all versions of the same task, oldest first."""
    known = {tag for tag in tags if not _SIGNATURES.fullmatch(tag)}
    found: dict[str, list[tuple[int, str]]] = {}
    for tag in sorted(known):
        match = _VERSION.fullmatch(tag)
        if match and match[1] in known:
            found.setdefault(match[1], []).append((int(match[2]), tag))
        else:
            found.setdefault(tag, [])
    return {tag: [name for _, name in sorted(versions)] for tag, versions in found.items()}


def signature_tag(manifest_digest: Digest) -> str:
    """The tag under which a registry holds the signatures of a manifest."""
    return f"{parse_digest(manifest_digest).replace(':', '-')}.sig"
