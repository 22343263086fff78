"""A gateway's client, once for code that blocks and once for asyncio.

One client may be used by many threads, or by many tasks of one event loop. It keeps connections
open between requests. A request that is refused for a while, or finds nobody, is sent again within
the time that `Retries` gives it: to classify an image twice changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import httpx

from service.client import calls
from service.client.calls import LONGEST_ANSWER, Address, Call, Image
from service.client.results import Answer, Embedding, Task, answer_of, embedding_of
from service.client.retries import Attempts, Retries

ANSWER_S, CONNECT_S = 60.0, 10.0
CONNECTIONS = 64  # at most
DEFAULT = Retries()


def _options(address: Address) -> dict[str, Any]:
    return {
        "headers": dict(address.headers),
        "timeout": httpx.Timeout(ANSWER_S, connect=CONNECT_S),
        "limits": httpx.Limits(max_connections=CONNECTIONS),
        "trust_env": not address.is_here,  # no proxy leads to this machine
    }


class Client:
    """Asks a gateway, and waits for its answers. Close it, or use it as a context."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retries: Retries = DEFAULT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`url` is http://HOST:PORT or https://HOST:PORT, with a path if a proxy gives it one.

        Raises ValueError if it is none, or if the token cannot be sent.
        """
        self._address = Address.of(url, token)
        self._retries, self._sleep = retries, sleep
        self._http = httpx.Client(**_options(self._address))

    def classify(
        self,
        image: Image,
        *tasks: str,
        version: int | str | None = None,
        top: int | None = None,
        min_probability: float | None = None,
    ) -> list[Answer]:
        """The answer of each task, in this order; what tasks share is computed once.

        `image` is a file's bytes or its name. `version` is a number or an alias, of one task.
        `top` is how many classes are listed at most, and none that is less probable than
        `min_probability`; without it, each task's own one holds. Of several tasks, one that cannot
        answer has its error in its answer. Raises ClientError, as BadImage, if no task answered;
        ValueError for a version of several tasks.
        """
        call = calls.classify(image, tasks, version, top, min_probability)
        return self._address.answers(tasks, self._asked(call), answer_of)

    def embed(
        self, image: Image, *tasks: str, version: int | str | None = None, depth: int | None = None
    ) -> list[Embedding]:
        """The image's features in the network of each task, in this order.

        `depth` is how many transformer blocks they have been through; all, if it is not given. All
        else is as of `classify`.
        """
        call = calls.embed(image, tasks, version, depth)
        return self._address.answers(tasks, self._asked(call), embedding_of)

    def tasks(self) -> list[Task]:
        """All tasks, in order of their names. Raises ClientError."""
        found: list[Task] = []
        after: str | None = ""
        while after is not None:
            some, after = self._address.page(self._asked(calls.tasks(after)))
            found += some
        return found

    def task(self, name: str) -> Task:
        """One task. Raises ClientError."""
        return self._address.task(self._asked(calls.task(name)))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _asked(self, call: Call) -> Any:
        attempts = Attempts(self._retries)
        while True:
            try:
                status, retry_after, body = self._send(call)
                pause_s = attempts.again(status, retry_after)
                if pause_s is None:
                    return self._address.content(status, body)
            except httpx.RequestError as error:
                pause_s = _unsent(self._address, attempts, error)
            self._sleep(pause_s)

    def _send(self, call: Call) -> tuple[int, str | None, bytes]:
        url = self._address.url + call.path
        with self._http.stream(
            call.method, url, content=call.body, headers=call.headers
        ) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > LONGEST_ANSWER:
                    raise self._address.stranger()
            return response.status_code, response.headers.get("retry-after"), bytes(body)


class AsyncClient:
    """As Client, for asyncio. Close it with `aclose`, or use it as an asynchronous context."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retries: Retries = DEFAULT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As of Client."""
        self._address = Address.of(url, token)
        self._retries, self._sleep = retries, sleep
        self._http = httpx.AsyncClient(**_options(self._address))

    async def classify(
        self,
        image: Image,
        *tasks: str,
        version: int | str | None = None,
        top: int | None = None,
        min_probability: float | None = None,
    ) -> list[Answer]:
        """As of Client. A file is read on another thread."""
        call = await asyncio.to_thread(calls.classify, image, tasks, version, top, min_probability)
        return self._address.answers(tasks, await self._asked(call), answer_of)

    async def embed(
        self, image: Image, *tasks: str, version: int | str | None = None, depth: int | None = None
    ) -> list[Embedding]:
        """As of Client. A file is read on another thread."""
        call = await asyncio.to_thread(calls.embed, image, tasks, version, depth)
        return self._address.answers(tasks, await self._asked(call), embedding_of)

    async def tasks(self) -> list[Task]:
        """As of Client."""
        found: list[Task] = []
        after: str | None = ""
        while after is not None:
            some, after = self._address.page(await self._asked(calls.tasks(after)))
            found += some
        return found

    async def task(self, name: str) -> Task:
        """As of Client."""
        return self._address.task(await self._asked(calls.task(name)))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _asked(self, call: Call) -> Any:
        attempts = Attempts(self._retries)
        while True:
            try:
                status, retry_after, body = await self._send(call)
                pause_s = attempts.again(status, retry_after)
                if pause_s is None:
                    return self._address.content(status, body)
            except httpx.RequestError as error:
                pause_s = _unsent(self._address, attempts, error)
            await self._sleep(pause_s)

    async def _send(self, call: Call) -> tuple[int, str | None, bytes]:
        url = self._address.url + call.path
        async with self._http.stream(
            call.method, url, content=call.body, headers=call.headers
        ) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LONGEST_ANSWER:
                    raise self._address.stranger()
            return response.status_code, response.headers.get("retry-after"), bytes(body)


LOST = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


def _unsent(address: Address, attempts: Attempts, error: httpx.RequestError) -> float:
    """Seconds until a request without an answer is sent again. Raises NoGateway or NotAGateway."""
    pause_s = attempts.again_unreached() if isinstance(error, LOST) else None
    if pause_s is not None:
        return pause_s
    if isinstance(error, httpx.ProtocolError | httpx.DecodingError):
        raise address.stranger() from None
    raise address.away(error) from None
