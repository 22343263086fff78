"""A simulated object store, in the place of obstore in the store's code.

Entity tags are digests of the content, as Amazon's are. A request is under way from the moment that
it is sent, also where its sender dies; it is executed within `late_s`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    NotFoundError,
    PreconditionError,
)

from tests.model_store.simulation.world import World

TRIES = 3  # of a client that repeats what was not answered


@dataclass(frozen=True, slots=True)
class Client:
    """What obstore calls a store."""

    tries: int


@dataclass
class Reply:
    """What comes back of a request."""

    done: bool = False
    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        """Raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass
class Bucket:
    """Objects by key, and the functions of obstore that the store's code calls."""

    world: World
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    # -- requests

    def _ask(self, client: Client, what: str, effect: Callable[[], Any]) -> Any:
        for last in [False] * (client.tries - 1) + [True]:
            try:
                return self._try(what, effect)
            except GenericError:
                if last:
                    raise
        raise AssertionError

    def _try(self, what: str, effect: Callable[[], Any]) -> Any:
        world = self.world
        if world.is_calm:
            return effect()
        changes = what.startswith(("put", "delete"))
        looks = what.startswith("get ") and world.is_shared(what.removeprefix("get "))
        kind, amount = world.event("change" if changes else "look" if looks else "request")
        if changes:
            world.changes()
        if kind == "fail":
            world.step(f"{what}: refused")
            raise GenericError("503 try again")
        if kind == "doze":
            world.doze(amount)
        reply = Reply()

        def execute() -> None:
            try:
                reply.value = effect()
            except Exception as error:
                reply.error = error
            reply.done = True
            if kind in ("late", "leave"):
                world.note(None, f"late: {what}")

        if kind in ("late", "lose", "leave"):
            world.later(0.0 if kind == "lose" else amount * world.late_s, execute)
            if kind == "leave":
                world.interrupt()
            world.step(f"{what}: not answered ({kind})")
            raise GenericError("connection reset")
        # A reply that is slow comes within a second: later than that, nobody waits for it.
        world.later(amount if kind == "slow" else 0.0, execute)
        world.wait(lambda: reply.done)
        world.trace.append((world.now, world.process.name if world.process else "", what))
        return reply.get()

    # -- obstore's functions

    def get(self, client: Client, key: str) -> Any:
        """GET"""

        def effect() -> Any:
            data, modified = self._there(key)
            return _Got(data, self._meta(key, data, modified))

        got = self._ask(client, f"get {key}", effect)
        if not key.startswith(("blobs/", "leases/")) and self.world.event("size")[0]:
            self.world.note(self.world.process, f"not seen: {key}")
            raise NotFoundError(key)
        return got

    def head(self, client: Client, key: str) -> Any:
        """HEAD"""

        def effect() -> Any:
            return self._meta(key, *self._there(key))

        meta = self._ask(client, f"head {key}", effect)
        if key.startswith("blobs/") and self.world.event("size")[0]:
            self.world.note(self.world.process, f"size read as 0: {key}")
            return {**meta, "size": 0}
        return meta

    def put(self, client: Client, key: str, data: Any, *, mode: Any = None, **_: Any) -> Any:
        """PUT, also with If-None-Match and If-Match"""
        content = bytes(data)

        def effect() -> None:
            there = self.objects.get(key)
            if mode == "create" and there is not None:
                raise AlreadyExistsError(key)
            if isinstance(mode, dict) and (there is None or _tag(there[0]) != mode["e_tag"]):
                raise PreconditionError(key)
            if there is None:
                self.world.changed[key] = self.world.tick()
            self.objects[key] = content, self.world.now
            self.world.wrote(key, content, there and there[0])

        self._ask(client, f"put {key}", effect)

    def delete(self, client: Client, key: str) -> None:
        """DELETE"""

        def effect() -> None:
            if self.objects.pop(key, None) is not None:
                self.world.changed[key] = self.world.tick()

        self._ask(client, f"delete {key}", effect)

    def list(self, client: Client, prefix: str | None = None) -> Iterator[list[Any]]:
        """A list of what is below a prefix"""

        def effect() -> Any:
            found = sorted(self.objects.items())
            return [self._meta(k, d, m) for k, (d, m) in found if k.startswith(prefix or "")]

        yield self._ask(client, f"list {prefix}", effect)

    def list_with_delimiter(self, client: Client, prefix: str) -> Any:
        """A list of what is in a folder"""

        def effect() -> Any:
            below = [key for key in self.objects if key.startswith(prefix)]
            folders = {
                key[: key.index("/", len(prefix)) + 1] for key in below if "/" in key[len(prefix) :]
            }
            files = [key for key in below if "/" not in key[len(prefix) :]]
            metas = [self._meta(key, *self.objects[key]) for key in sorted(files)]
            return {"common_prefixes": sorted(folders), "objects": metas}

        return self._ask(client, f"list {prefix}", effect)

    def _there(self, key: str) -> tuple[bytes, float]:
        if key not in self.objects:
            raise NotFoundError(key)
        return self.objects[key]

    @staticmethod
    def _meta(key: str, data: bytes, modified: float) -> dict[str, Any]:
        when = datetime.fromtimestamp(modified, UTC)
        return {"path": key, "size": len(data), "e_tag": _tag(data), "last_modified": when}


@dataclass(frozen=True, slots=True)
class _Got:
    data: bytes
    meta: dict[str, Any]

    def bytes(self) -> bytes:
        """The content."""
        return self.data


def _tag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
