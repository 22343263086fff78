"""What can go wrong in the store; every error of this package is a StoreError.

StoreError
├── StoreNotFound         there is no store at the given place
├── UnknownFormat         a store of another format, or with features that are not known here
├── UnsafeStorage         an object store without conditional writes: writers would lose updates
├── StorageError          an object store that does not answer, or refuses
│   └── Unsure            … so that it is not known whether a write took effect
├── LeaseLost             somebody else took what this process was alone at
├── AgentBusy             another process holds this agent
├── AgentMoved            an agent's state is not the one that was to be replaced
├── InvalidName           a task, agent, component or digest that breaks the naming rules
├── Unstorable            arrays or JSON that the format cannot hold (on writing)
├── UnknownTask           no live version under this task id
├── UnknownVersion        the task has no such version
├── MissingComponent      a path names components that were never put
├── LiveVersion           a version that is live, or that an alias names, cannot be removed alone
├── UnknownName           there is no such alias or pin
├── InvalidKey            a file that holds no usable key for signatures
├── Untrusted             no trusted key has signed a version
├── RegistryError         a registry that does not answer, refuses, or answers nonsense
├── ExchangeError         versions that cannot be moved as asked
└── DamagedStore          what is stored breaks the format (on reading)
    ├── Malformed         bytes that are not what the format says
    ├── BlobNotFound      something refers to a blob that is not there
    ├── CorruptBlob       a blob's bytes do not give its digest
    ├── CorruptRef        a ref file that cannot be read as a ref
    └── NotAFile          a link, a pipe, a directory or a huge file where a plain file should be
"""


class StoreError(Exception):
    """Anything the store refuses or cannot do."""


class StoreNotFound(StoreError):
    """There is no store at the given place."""


class UnknownFormat(StoreError):
    """A store of another format, or one that uses features which this code does not know."""


class UnsafeStorage(StoreError):
    """The object store has no conditional writes: several writers would lose updates."""


class StorageError(StoreError):
    """An object store does not answer, or refuses."""


class Unsure(StorageError):
    """Whether a write took effect is not known: it was not answered, and others wrote meanwhile."""


class LeaseLost(StoreError):
    """Somebody else took what this process was alone at."""


class AgentBusy(StoreError):
    """Another process holds this agent, and lives."""


class AgentMoved(StoreError):
    """An agent's state is not the one that was to be replaced."""


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
    """Refused: the version is live, or an alias names it."""


class UnknownName(StoreError):
    """There is no such alias or pin."""


class InvalidKey(StoreError):
    """A file holds no key that signatures can be made or checked with."""


class Untrusted(StoreError):
    """No trusted key has signed a version."""


class RegistryError(StoreError):
    """A registry does not answer, refuses, or answers nonsense."""


class ExchangeError(StoreError):
    """Versions cannot be moved as asked."""


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


class NotAFile(DamagedStore):
    """A link, a pipe, a directory or a huge file stands where a plain file should be."""


def listed(names: list[str]) -> str:
    """Names for a message, cut at ten."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} … and {len(names) - 10} more"
