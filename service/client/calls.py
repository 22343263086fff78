"""The calls of a gateway as values, and what their answers mean. Sends nothing itself."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from service.client.errors import NoGateway, NotAGateway, unreadable
from service.client.results import Task, refusal, task_of

LARGEST_IMAGE = 1 << 30  # bytes that are read to be sent; the gateway takes fewer
LONGEST_ANSWER = 64 << 20  # bytes
Image = bytes | str | os.PathLike[str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    path: str
    body: bytes | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that its body needs."""
        return {} if self.body is None else {"content-type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway is, and the token for it."""

    url: str  # without a slash at its end
    token: str  # "" is none
    is_here: bool  # on this machine

    @classmethod
    def of(cls, url: str, token: str | None) -> Address:
        """Raises ValueError for what is no URL of a server, or cannot be sent as a token."""
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError
            if parts.query or parts.fragment or parts.username is not None:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"url: expected http://HOST:PORT or https://HOST:PORT, found {url!r:.100}"
            ) from None
        token = token or ""
        if not (token.isascii() and token.isprintable()):
            raise ValueError("token: expected a token of ASCII characters in one line")
        return cls(url.rstrip("/"), token, _is_loopback(parts.hostname))

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of every request."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def content(self, status: int, body: bytes) -> Any:
        """The JSON of an answer. Raises Refused or NotAGateway."""
        try:
            found = json.loads(body)
            error = None if status == 200 else refusal(status, found, self._advice(status))
        except ValueError:
            raise self.stranger() from None
        if error is not None:
            raise error
        return found

    def answers(
        self, tasks: Sequence[str], content: Any, read: Callable[[Mapping[str, Any]], T]
    ) -> list[T]:
        """What `read` makes of each task's answer, in this order. Raises NotAGateway."""
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            found = [read(one) for one in (content["results"] if tasks[1:] else [content])]
            if len(found) == len(tasks):
                return found
        raise self.stranger()

    def page(self, content: Any) -> tuple[list[Task], str | None]:
        """Tasks, and the name to go on after. Raises NotAGateway."""
        with suppress(KeyError, TypeError, AttributeError):
            return [task_of(one) for one in content["tasks"]], content.get("next")
        raise self.stranger()

    def task(self, content: Any) -> Task:
        """Raises NotAGateway."""
        with suppress(KeyError, TypeError, AttributeError):
            return task_of(content)
        raise self.stranger()

    def away(self, error: Exception) -> NoGateway:
        """The error where nothing answers."""
        why = str(error) or type(error).__name__
        return NoGateway(
            f"no gateway answers at {self.url}: {why}\n"
            "start one with munet serve --store STORE, or give the address of one with --url"
        )

    def stranger(self) -> NotAGateway:
        """The error where something else answers."""
        return NotAGateway(
            f"expected a gateway at {self.url}, found something else that answers there\n"
            "give the gateway's address with --url"
        )

    def _advice(self, status: int) -> str:
        if status == 401 and self.token:
            return "\nMUNET_TOKEN has to hold a token that this gateway knows"
        if status in (401, 403) and not self.token:
            return "\nif you have a token for this gateway, set MUNET_TOKEN to it"
        return ""


def classify(
    image: Image,
    tasks: Sequence[str],
    version: int | str | None,
    top: int | None,
    least: float | None = None,
) -> Call:
    """The request to classify for one task or several; raises as `_of_image`."""
    options = {"top_k": top, "min_probability": least}
    return _of_image("/classify", image, tasks, version, options)


def embed(image: Image, tasks: Sequence[str], version: int | str | None, depth: int | None) -> Call:
    """The request for features of one task or several; raises as `_of_image`."""
    return _of_image("/embed", image, tasks, version, {"depth": depth})


def _of_image(
    call: str,
    image: Image,
    tasks: Sequence[str],
    version: int | str | None,
    options: Mapping[str, object],
) -> Call:
    """Raises BadImage for a file that cannot be read, ValueError for no task, or a version of
    several.
    """
    if not tasks:
        raise ValueError("expected the name of a task, found none")
    if len(tasks) > 1 and version is not None:
        raise ValueError(f"version: expected one task, found {len(tasks)}; ask for each alone")
    query = [("task", task) for task in tasks] if len(tasks) > 1 else []
    options = {"version": version, **options}
    query += [(name, str(value)) for name, value in options.items() if value is not None]
    path = call if len(tasks) > 1 else f"{call}/{quote(tasks[0])}"
    return Call("POST", f"{path}?{urlencode(query)}" if query else path, read(image))


def tasks(after: str) -> Call:
    """The request for a page of tasks."""
    return Call("GET", f"/tasks?{urlencode({'after': after})}")


def task(name: str) -> Call:
    """The request for one task."""
    return Call("GET", f"/tasks/{quote(name)}")


def read(image: Image) -> bytes:
    """The bytes of an image, or of the file that it is in. Raises BadImage."""
    if isinstance(image, bytes):
        return image
    try:
        with Path(image).open("rb") as opened:
            data = opened.read(LARGEST_IMAGE + 1)
    except IsADirectoryError:
        raise unreadable("expected a picture, found a folder; name the files in it") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise unreadable(getattr(error, "strerror", None) or str(error)) from None
    if len(data) > LARGEST_IMAGE:
        raise unreadable(f"expected a picture, found more than {LARGEST_IMAGE >> 20} MiB")
    return data


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
