"""Which tasks exist: follows the store's refs, loads on demand, swaps versions without a gap.

The first request of a task loads it; a preloaded task is loaded at once. `table.py` takes in what
the store says, and swaps versions. Requests hold the path they run on.

The caller's grants decide what may be known. For a request that may not know of a private task
(`entry.py`), the task does not exist: no answer, header, hint, list or error names, counts or
orders it, and the request is refused before anything of it is loaded. The exceptions are totals of
`/metrics` and the load of the gateway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice

from model_store import UnknownVersion
from service.access import Grants
from service.compute.paths import LoadedPath
from service.errors import GatewayError, Unavailable, UnknownTask
from service.metrics.instruments import Metrics
from service.tasks.aliases import Aliases
from service.tasks.entry import Entry
from service.tasks.following import Follower
from service.tasks.loader import Loader
from service.tasks.lookups import Lookups
from service.tasks.near_names import NearNames
from service.tasks.older_versions import OlderVersions
from service.tasks.reasons import no_task, no_version
from service.tasks.rollouts import Rollouts
from service.tasks.slot import Slot
from service.tasks.store_health import StoreAway
from service.tasks.table import TaskTable

Version = int | str | None  # a number or a name; None is the one that answers
HINTS = 3  # names that a refusal tells
READERS, REQUESTS = 6, 1000  # threads for what is read before a load, and requests at them
Look = Callable[[Callable[[], bool | None]], Awaitable[bool | None]] | None


class Catalog:
    """The tasks of one store; a thread of its own follows it."""

    def __init__(
        self,
        loader: Loader,
        metrics: Metrics,
        *,
        poll_s: float,
        preload: Sequence[str] = (),
        pins: Sequence[str] = (),
    ) -> None:
        """`preload` names tasks to load when they appear, "*" means all; `pins` are names, or
        patterns such as a/*, of tasks that stay loaded.
        """
        self._loader = loader
        self._metrics = metrics
        self._health = loader.health
        self._follower = Follower(lambda: self._poll(), loader.health, poll_s=poll_s)
        loader.look = self.refresh
        self.versions = Lookups("versions of tasks", READERS, self._health, REQUESTS)
        self._aliases = Aliases(
            loader, self.versions, self._confirm, keep_s=poll_s, clock=loader.clock
        )
        self._older = OlderVersions(loader, self._confirm)
        self._table = TaskTable(loader, metrics, self._older.forget, preload, pins)
        self._near = NearNames()
        # For names that no task has: they take no other threads.
        self.names = Lookups("names of tasks", 1, self._health)
        self.rollouts = Rollouts(loader)
        # Of tasks whose answers abstain unless a request says otherwise; replaced, never changed.
        self.min_probabilities: Mapping[str, float] = {}

    def start(self) -> None:
        """Reads the store once, if it answers, then follows it."""
        self._follower.start()

    def stop(self) -> None:
        """Ends the following thread."""
        for part in (self.names, self.versions, self.rollouts):
            part.close()
        self._follower.stop()

    # -- requests

    async def acquire(self, task: str, grants: Grants, version: Version = None) -> LoadedPath:
        """The path for a request to classify: of a task, or of its version of this number or name.
        Loads it first if it is not in memory.

        Raises what the grants refuse, UnknownTask, or Unavailable if it cannot be loaded.
        """
        grants.require_classify(task)
        entry = await self.require(task, grants)
        slot = entry.slot if version is None else await self.slot(task, version)
        path = slot.path
        if path is None:
            path = await self._loaded_for(grants, slot)
        else:
            slot.use()
        if path.published.path.private and not grants.sees(task, private=True):  # another by now
            raise no_version(task, path.published.version)
        return path

    async def _loaded_for(self, grants: Grants, slot: Slot) -> LoadedPath:
        """Keeps a private version from being loaded for a request that may not know of it."""
        if not (slot.summarised or grants.sees(slot.task, private=True)):
            with suppress(Exception):  # loading it says what is wrong
                await self.versions.ask(slot.summary)
        summary = slot.known_summary
        if summary is not None and not grants.sees(slot.task, summary.private):
            raise no_version(slot.task, slot.version)
        return await self.loaded(slot)

    async def require(self, task: str, grants: Grants, look: Look = None) -> Entry:
        """The task, as far as a request may know of it; raises UnknownTask else.

        `look` runs work that may read the store in a thread, by default one of the catalog's.
        Questions about tasks bring threads of their own, so that they take none from answers.
        """
        try:
            entry = self._table.entries.get(task) or await self._known(task)
        except UnknownTask:
            raise await self.unknown(task, grants) from None
        if not (entry.is_public or await self.visible(task, entry, grants, look)):
            await asyncio.wrap_future(self.refresh())  # as long as for a task that does not exist
            raise await self.unknown(task, grants)
        return entry

    async def visible(self, task: str, entry: Entry, grants: Grants, look: Look = None) -> bool:
        """Whether a request may know of a task; `look` reads what is not known yet."""
        if grants.sees(task, private=True):
            return True
        if not entry.slot.summarised:
            await (look or self.versions.ask)(entry.read_private)
        return grants.sees(task, entry.known_private())

    async def unknown(self, task: str, grants: Grants) -> UnknownTask:
        """The error for a name that no task has, with the names that the request may mean.

        Tasks that the request may not know of, or may do nothing with, do not change these names.
        """
        entries = self._table.entries

        def useful(name: str) -> bool:
            allowed = grants.read or grants.classifies(name)
            return allowed and name in entries and entries[name].seen_by(name, grants)

        try:
            near = await self.names.ask(lambda: [*islice(filter(useful, self.near(task)), HINTS)])
            return no_task(task, near)
        except Unavailable:  # of too many unknown names at once: they do without
            return no_task(task)

    async def slot(self, task: str, version: Version = None) -> Slot:
        """The place of a task's version, loaded or not, for those who may know of it.

        Raises UnknownTask or Unavailable.
        """
        entry = await self._known(task)
        if isinstance(version, str):
            version = await self._aliases.number(task, version)
        for slot in (entry.slot, entry.successor):
            if slot is not None and version in (None, slot.version):
                return slot
        assert version is not None
        found = self.rollouts.slot(task, version) or self._older.find(task, version)
        return found or await self.versions.ask(self._older.read, task, version)

    async def loaded(self, slot: Slot) -> LoadedPath:
        """The path of a slot, loaded first if need be. Raises as `acquire`."""
        if (path := slot.use()) is not None:
            return path
        started = self._loader.clock()
        try:
            path = await self._begun(slot)
        except StoreAway as error:
            raise slot.away(error) from None
        except GatewayError as error:
            raise await self._explain(slot, slot.task, error) from None
        self._metrics.cache_miss_seconds.observe(self._loader.clock() - started)
        return path

    def _begun(self, slot: Slot) -> asyncio.Future[LoadedPath]:
        """Waits for a load; no frame may hold it, as its error would hold that frame.

        If one client gives up, the load goes on for others who wait for it.
        """
        job = self._health.unless_it_hangs(slot.begin())
        self._metrics.cache_misses.inc()
        return asyncio.wrap_future(job)

    async def _known(self, task: str) -> Entry:
        """Raises UnknownTask if there is no such task, after a look at the store."""
        if task not in self._table.entries:  # perhaps published a moment ago
            await asyncio.wrap_future(self.refresh())  # Unavailable where the store cannot tell
        entry = self._table.entries.get(task)
        if entry is None:
            raise no_task(task)
        return entry

    async def _explain(self, slot: Slot, task: str, error: GatewayError) -> GatewayError:
        """Whether the task or version is gone: such a failed load is no fault of the store."""
        try:
            await asyncio.wrap_future(self.refresh())
        except Unavailable:  # nobody can tell
            return error
        if isinstance(error.__cause__, UnknownVersion) and slot is not self._current(task):
            return no_version(task, slot.version)
        return no_task(task) if self._current(task) is None else error

    def _current(self, task: str) -> Slot | None:
        entry = self._table.entries.get(task)
        return None if entry is None else entry.slot

    def near(self, task: str) -> Iterator[str]:
        """The names that are like this one, the most alike first; some may be private."""
        return self._near.of(task, self._table.names)

    # -- what there is

    @property
    def ready(self) -> bool:
        """Whether the store has been read and every preloaded task was loaded or has failed."""
        return self._table.followed and not self._table.awaited

    @property
    def alive(self) -> bool:
        """Whether the following thread runs."""
        return self._follower.alive

    def entries(self) -> Mapping[str, Entry]:
        """All tasks, by name, as they are now; later changes do not show in it."""
        return self._table.entries

    def require_followed(self) -> None:
        """Raises Unavailable until the store has been read once: nothing is known to be missing."""
        if not self._table.followed:
            raise Unavailable("the store has not been read yet", retry_after_s=1)

    def slots(self) -> list[Slot]:
        """Every version that is in memory, or that was asked for."""
        return self._table.slots() + self._older.slots() + self.rollouts.slots()

    def public(self, task: str) -> bool:
        """Whether there is such a task and it is known not to be private."""
        entry = self._table.entries.get(task)
        return entry is not None and (entry.is_public or entry.known_private() is False)

    def counts(self) -> Mapping[str, int]:
        """Tasks by state."""
        states = dict.fromkeys(("cold", "loading", "ready", "failed"), 0)
        return {**states, **Counter(entry.slot.state for entry in self._table.entries.values())}

    # -- following the store

    def refresh(self) -> Future[None]:
        """Asks for a look at the store, as `Follower.refresh`."""
        return self._follower.refresh()

    def _confirm(self) -> None:
        """Before something is called missing: raises Unavailable unless the store answers."""
        self.refresh().result()

    def _poll(self) -> Exception | None:
        """Takes in changes; if the store cannot be read, changes nothing and returns the error."""
        try:
            view = self._loader.store.watched()
            recovered = self._health.good()
            self._table.take_in(view)
            self.rollouts.follow(view.offers, self._table.entries)
            self.min_probabilities = view.min_probabilities
            self._older.drop_removed()
            self._table.load_again(recovered)
        except Exception as error:  # an unreadable store must not end what is being served
            self._metrics.catalog_polls.labels("error").inc()
            self._health.bad(error)
            return error
        self._table.followed = True
        self._metrics.catalog_polls.labels("ok").inc()
        return None
