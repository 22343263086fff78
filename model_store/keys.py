"""Where each document of a store lies: from what it is of to the key of its file, and back."""

from model_store.blobs import Digest
from model_store.errors import InvalidName
from model_store.names import quote, unquote

LIVE = "live"
TASKS, AGENTS, PINS, SIGNATURES = "refs/tasks", "refs/agents", "refs/pins", "refs/signatures"
KINDS = (TASKS, AGENTS, PINS, SIGNATURES)


def copy_key(key: str) -> str:
    """The key of a document's second copy, or the folder of the copies of a kind."""
    return f"copies/{key.removeprefix('refs/')}"


def task_key(task: str) -> str:
    """The key of a task's document."""
    return f"{TASKS}/{quote(task)}"


def agent_key(agent: str) -> str:
    """The key of an agent's document."""
    return f"{AGENTS}/{quote(agent)}"


def pin_key(name: str) -> str:
    """The key of a pin's document."""
    return f"{PINS}/{quote(name)}"


def signature_key(manifest: Digest) -> str:
    """The key of the document that names a manifest's signatures."""
    return f"{SIGNATURES}/{manifest.removeprefix('sha256:')}"


def name_in(key: str) -> str | None:
    """The task, agent or pin that a document is of; None for a key that nothing here makes."""
    try:
        return unquote(key.rpartition("/")[2])
    except InvalidName:
        return None
