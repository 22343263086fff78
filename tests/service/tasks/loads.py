"""Loads of tasks, for all who ask for them."""

from __future__ import annotations

from service.compute.paths import LoadedPath
from service.tasks.catalog import Catalog


async def loaded(catalog: Catalog, task: str, version: int | None = None) -> LoadedPath:
    """What answers for a task, or for a version of it; loaded first if need be."""
    return await catalog.loaded(await catalog.slot(task, version))
