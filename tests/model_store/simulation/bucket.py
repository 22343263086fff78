"""A simulated object store, in the place of obstore in the store's code.

Entity tags are digests of the content, as Amazon's are. A request is under way from the moment that
it is sent, whatever becomes of its sender; it is executed within `late_s`.
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
        world, weather = self.world, self.world.weather
        if world.process is None:
            return effect()
        changes = what.startswith(("put", "delete"))
        if world.chance(weather.fail):
            world.step(f"{what}: refused")
            raise GenericError("503 try again")
        late = changes and world.chance(weather.late)
        lost = changes and world.chance(weather.lose)
        reply = Reply()

        def execute() -> None:
            try:
                reply.value = effect()
            except Exception as error:
                reply.error = error
            reply.done = True
            if late:
                world.note(None, f"late: {what}")

        # A reply that is slow comes within a second: later than that, nobody waits for it.
        most = world.late_s if late else 1.0
        world.later(world.random.random() * most, execute)
        if late or lost:
            world.step(f"{what}: not answered")
            raise GenericError("connection reset")
        world.wait(lambda: reply.done)
        world.step(what)
        return reply.get()

    # -- obstore's functions

    def get(self, client: Client, key: str) -> Any:
        """GET"""

        def effect() -> Any:
            data, modified = self._there(key)
            return _Got(data, self._meta(key, data, modified))

        return self._ask(client, f"get {key}", effect)

    def head(self, client: Client, key: str) -> Any:
        """HEAD"""

        def effect() -> Any:
            meta = self._meta(key, *self._there(key))
            lies = key.startswith("blobs/") and self.world.chance(self.world.weather.lie)
            return {**meta, "size": 0} if lies else meta

        return self._ask(client, f"head {key}", effect)

    def put(self, client: Client, key: str, data: Any, *, mode: Any = None, **_: Any) -> Any:
        """PUT, also with If-None-Match and If-Match"""
        content = bytes(data)

        def effect() -> None:
            there = self.objects.get(key)
            if mode == "create" and there is not None:
                raise AlreadyExistsError(key)
            if isinstance(mode, dict) and (there is None or _tag(there[0]) != mode["e_tag"]):
                raise PreconditionError(key)
            self.objects[key] = content, self.world.now

        self._ask(client, f"put {key}", effect)

    def delete(self, client: Client, key: str) -> None:
        """DELETE"""
        self._ask(client, f"delete {key}", lambda: self.objects.pop(key, None) and None)

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
