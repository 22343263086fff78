"""Names of versions, such as `stable` and `canary`, as the store has or lately had them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping

from model_store import ModelStore, StoreError
from service.errors import Unavailable, UnknownTask
from service.tasks.reasons import reason

KEPT_TASKS = 1000  # whose names are remembered


class Aliases:
    """What names of versions stand for; for the event loop's thread."""

    def __init__(self, store: ModelStore, *, keep_s: float, clock: Callable[[], float]) -> None:
        """A task's names are read again when they are older than `keep_s`."""
        self._store = store
        self._keep_s = keep_s
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Mapping[str, int]]] = OrderedDict()

    async def number(self, task: str, name: str) -> int:
        """The version that a name stands for. Raises UnknownTask or Unavailable."""
        read_at, names = self._known.get(task, (0.0, {}))
        if name not in names or self._clock() - read_at > self._keep_s:
            names = await asyncio.to_thread(self._read, task)
            self._known[task] = (self._clock(), names)
            self._known.move_to_end(task)
            if len(self._known) > KEPT_TASKS:
                self._known.popitem(last=False)
        if name not in names:
            known = ", ".join(names) or "none"
            raise UnknownTask(f"task {task!r} has no version named {name!r}; it has {known}")
        return names[name]

    def _read(self, task: str) -> Mapping[str, int]:
        try:
            return self._store.aliases(task)
        except (StoreError, OSError) as error:
            detail = f"names of {task!r}: {reason(error)}"
            raise Unavailable(detail, retry_after_s=1) from None
