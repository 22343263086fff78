"""Names of tasks, agents and components: which are allowed, and the files that they stand for."""

import re

from model_store.blobs import Digest
from model_store.errors import InvalidName

MAX_CHARACTERS = 200
MAX_FILE_NAME_BYTES = 255  # what common file systems allow; "/" takes three of them

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


def require_name(kind: str, name: object) -> str:
    """`name` if it is allowed as a `kind` ("task", "agent", "component"); else InvalidName."""
    if not isinstance(name, str):
        raise InvalidName(f"{kind} {type(name).__name__}: expected a string")
    if len(name) > MAX_CHARACTERS or len(quote(name)) > MAX_FILE_NAME_BYTES:
        raise InvalidName(
            f"{kind} {name[:60]!r}…: too long; at most {MAX_CHARACTERS} characters, and at most"
            f' {MAX_FILE_NAME_BYTES} when each "/" counts three'
        )
    segments = name.split("/")
    if not all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments):
        raise InvalidName(
            f'{kind} {name!r}: expected segments of letters, digits, ".", "_" and "-", joined by'
            ' "/", none of them empty, "." or ".."'
        )
    return name


def quote(name: str) -> str:
    """One file name for a name that may contain "/"."""
    return name.replace("/", "%2F")


def unquote(file_name: str) -> str:
    """The name that `quote` made this file name of; InvalidName if there is none."""
    if "/" in file_name:
        raise InvalidName(f"file name {file_name[:60]!r}: a path, expected a name with %2F for /")
    name = file_name.replace("%2F", "/")
    # "." and ".." as segments are refused here too, so no file name leads out of its directory
    return require_name("file name", name)


# -- the keys of documents

LIVE = "live"
TASKS, AGENTS, PINS, SIGNATURES = "refs/tasks", "refs/agents", "refs/pins", "refs/signatures"
KINDS = (TASKS, AGENTS, PINS, SIGNATURES)
INDEX = "publications"  # the agent whose state's parts the states of all others may have


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
