"""Where a test keeps its store: what is true of a store is true of it in a folder and on S3."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from model_store import ModelStore
from tests.model_store.object_stores import S3Server


@dataclass(frozen=True, slots=True)
class Place:
    """A store's URL and what a process needs in its environment to open it; can be pickled."""

    url: str
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def open(self, *, create: bool = False) -> ModelStore:
        """The store, as any process would open it."""
        os.environ.update(self.environment)
        return ModelStore(self.url, create=create)


def local_place(folder: Path) -> Place:
    """In a folder."""
    return Place(str(folder / "store"))


def s3_place(server: S3Server, folder: Path) -> Place:
    """In the bucket of a server that executes nothing late, with a cache in a folder."""
    own = {"MUNET_CACHE": str(folder / "cache"), "MUNET_STORE_LATE_S": "0"}
    return Place(server.url(folder.name), {**server.environment, **own})
