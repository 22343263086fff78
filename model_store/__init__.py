"""A content-addressed store of multitask models: every component exists once."""

from model_store.blobs import Digest, digest_of, parse_digest
from model_store.errors import (
    BlobNotFound,
    CorruptBlob,
    CorruptRef,
    DamagedStore,
    InvalidName,
    LiveVersion,
    Malformed,
    MissingComponent,
    StoreError,
    StoreNotFound,
    UnknownTask,
    UnknownVersion,
    Unstorable,
)
from model_store.maintenance import GcReport, TaskUsage, Usage
from model_store.manifest import TaskPath
from model_store.store import ModelStore, Published
from model_store.tensors import Tree, decode, encode
from model_store.verification import Problem

__all__ = [
    "BlobNotFound",
    "CorruptBlob",
    "CorruptRef",
    "DamagedStore",
    "Digest",
    "GcReport",
    "InvalidName",
    "LiveVersion",
    "Malformed",
    "MissingComponent",
    "ModelStore",
    "Problem",
    "Published",
    "StoreError",
    "StoreNotFound",
    "TaskPath",
    "TaskUsage",
    "Tree",
    "UnknownTask",
    "UnknownVersion",
    "Unstorable",
    "Usage",
    "decode",
    "digest_of",
    "encode",
    "parse_digest",
]
