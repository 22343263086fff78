"""What can go wrong in the store; every error of this package is a StoreError.

StoreError
├── StoreNotFound         there is no store at the given place
├── InvalidName           a task, agent, component or digest that breaks the naming rules
├── Unstorable            arrays or JSON that the format cannot hold (on writing)
├── UnknownTask           no live version under this task id
├── UnknownVersion        the task has no such version
├── MissingComponent      a path names components that were never put
├── LiveVersion           the live version cannot be removed alone
└── DamagedStore          what is stored breaks the format (on reading)
    ├── Malformed         bytes that are not what the format says
    ├── BlobNotFound      something refers to a blob that is not there
    ├── CorruptBlob       a blob's bytes do not give its digest
    └── CorruptRef        a ref file that cannot be read as a ref
"""


class StoreError(Exception):
    """Anything the store refuses or cannot do."""


class StoreNotFound(StoreError):
    """There is no store at the given place."""


class InvalidName(StoreError):
    """A task, agent or component name, or a digest, breaks the naming rules."""


class Unstorable(StoreError):
    """Arrays or JSON that the format cannot hold."""


class UnknownTask(StoreError):
    """The store serves no such task."""


class UnknownVersion(StoreError):
    """The task exists, this version of it does not."""


class MissingComponent(StoreError):
    """A path to be published names components whose blobs are not in the store."""


class LiveVersion(StoreError):
    """Refused: the version is live."""


class DamagedStore(StoreError):
    """What is stored does not follow the format."""


class Malformed(DamagedStore):
    """Bytes that are not what the format says."""


class BlobNotFound(DamagedStore):
    """Something refers to a blob that is not in the store."""


class CorruptBlob(DamagedStore):
    """A blob whose bytes do not give the digest it is stored under."""


class CorruptRef(DamagedStore):
    """A ref file whose content is not a ref."""


def listed(names: list[str]) -> str:
    """Names for a message, cut at ten."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} … and {len(names) - 10} more"
