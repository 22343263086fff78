"""A content-addressed store of multitask models: every component exists once."""

from model_store.blobs import Digest, digest_of, parse_digest
from model_store.collection import GcReport
from model_store.errors import (
    AgentBusy,
    AgentMoved,
    BlobNotFound,
    CorruptBlob,
    CorruptRef,
    DamagedStore,
    ExchangeError,
    InvalidKey,
    InvalidName,
    LeaseLost,
    LiveVersion,
    Malformed,
    MissingComponent,
    NotAFile,
    RegistryError,
    StorageError,
    StoreError,
    StoreNotFound,
    UnknownName,
    UnknownTask,
    UnknownVersion,
    UnsafeStorage,
    Unstorable,
    Untrusted,
)
from model_store.leases import Held
from model_store.manifest import TaskPath
from model_store.store import ModelStore, Published
from model_store.tensors import Tree, decode, encode
from model_store.usage import TaskUsage, Usage
from model_store.verification import Problem

__all__ = [
    "AgentBusy",
    "AgentMoved",
    "BlobNotFound",
    "CorruptBlob",
    "CorruptRef",
    "DamagedStore",
    "Digest",
    "ExchangeError",
    "GcReport",
    "Held",
    "InvalidKey",
    "InvalidName",
    "LeaseLost",
    "LiveVersion",
    "Malformed",
    "MissingComponent",
    "ModelStore",
    "NotAFile",
    "Problem",
    "Published",
    "RegistryError",
    "StorageError",
    "StoreError",
    "StoreNotFound",
    "TaskPath",
    "TaskUsage",
    "Tree",
    "UnknownName",
    "UnknownTask",
    "UnknownVersion",
    "UnsafeStorage",
    "Unstorable",
    "Untrusted",
    "Usage",
    "decode",
    "digest_of",
    "encode",
    "parse_digest",
]
