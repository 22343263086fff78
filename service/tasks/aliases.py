"""Names of versions, such as `stable` and `canary`, as the store has or lately had them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from model_store import StoreError
from service.errors import Unavailable, UnknownTask
from service.tasks.loader import Loader
from service.tasks.lookups import Lookups
from service.tasks.reasons import reason

KEPT_NAMES = 1000  # that are remembered


class Aliases:
    """What names of versions stand for; for the event loop's thread."""

    def __init__(
        self,
        loader: Loader,
        readers: Lookups,
        confirm: Callable[[], None],
        *,
        keep_s: float,
        clock: Callable[[], float],
    ) -> None:
        """A name is read again when it was read longer than `keep_s` ago. `confirm` raises
        Unavailable unless the store is there.
        """
        self._confirm = confirm
        self._loader = loader
        self._readers = readers
        self._keep_s = keep_s
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    async def number(self, task: str, name: str) -> int:
        """The version that a name stands for. Raises UnknownTask or Unavailable."""
        read_at, number = self._known.get((task, name), (-math.inf, 0))
        if self._clock() - read_at > self._keep_s:
            number = await self._readers.ask(self._read, task, name)
            self._known[task, name] = (self._clock(), number)
            self._known.move_to_end((task, name))
            if len(self._known) > KEPT_NAMES:
                self._known.popitem(last=False)
        return number

    def _read(self, task: str, name: str) -> int:
        """Reads one small file, for any number of versions and names."""
        try:
            self._loader.health.require()
            number = self._loader.store.named(task, name)
            others = () if number else self._loader.store.aliases(task)
        except (StoreError, OSError) as error:
            detail = f"names of {task!r}: {reason(error)}"
            raise Unavailable(detail, retry_after_s=1) from None
        if number:
            return number
        self._confirm()
        known = ", ".join(others) or "none"
        raise UnknownTask(f"task {task!r} has no version named {name!r}; it has {known}")
