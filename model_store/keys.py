"""Where each ref of a store lies: from what it is of to the key of its file, and back."""

import re

from model_store.blobs import Digest
from model_store.errors import InvalidName
from model_store.names import quote, unquote

LIVE = "live"
TASKS, AGENTS, PINS, SIGNATURES = "refs/tasks", "refs/agents", "refs/pins", "refs/signatures"
VERSION = re.compile(r"v([1-9][0-9]{0,8})")


def parse_version_key(key: str) -> tuple[str, int] | None:
    """Task and number of a version, given its key; None for any other key."""
    directory, _, name = key.rpartition("/")
    parent, _, task = directory.rpartition("/")
    match = VERSION.fullmatch(name)
    try:
        return (unquote(task), int(match[1])) if match and parent == TASKS else None
    except InvalidName:
        return None  # not ours; verify reports it


def version_key(task: str, number: int) -> str:
    """The key of a version."""
    return f"{TASKS}/{quote(task)}/v{number}"


def pointer_key(task: str, name: str) -> str:
    """The key of `live` or of an alias."""
    return f"{TASKS}/{quote(task)}/{name}"


def agent_key(agent: str) -> str:
    """The key of an agent's state."""
    return f"{AGENTS}/{quote(agent)}/state"


def pin_key(name: str) -> str:
    """The key of a pin."""
    return f"{PINS}/{quote(name)}"


def signature_key(manifest: Digest) -> str:
    """The key of what names a manifest's signatures."""
    return f"{SIGNATURES}/{manifest.removeprefix('sha256:')}"
