"""Requests to a gateway, and what is made of its refusals for somebody at a terminal."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

ANSWER_S = 60.0
PATIENCE_S = 60.0  # with a gateway that asks to be asked again, as for a task that is loaded
OF_THE_PICTURE = (400, 413, 415)
SHOWN_CHARACTERS = 300
LONGEST_ANSWER = 64 << 20
LARGEST_PICTURE = 1 << 30  # bytes that are read to be sent; the gateway takes fewer


class Unanswered(Exception):
    """The gateway does not answer for this task, or not at all; the message says what to do."""


class BadPicture(Exception):
    """This picture cannot be answered; others may be."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that runs somewhere."""

    url: str
    host: str
    port: int | None
    path: str  # before that of a call, for a gateway behind a proxy
    secure: bool
    token: str  # "" is none

    @classmethod
    def at(cls, url: str, token: str = "") -> Gateway:
        """Raises ValueError for what is no URL of a server, or cannot be sent as a token."""
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError
            if parts.query or parts.fragment or parts.username is not None:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"--url: expected http://HOST:PORT or https://HOST:PORT, found {url!r:.100}"
            ) from None
        if not (token.isascii() and token.isprintable()):
            raise ValueError("MUNET_TOKEN: expected a token of ASCII characters in one line")
        secure = parts.scheme == "https"
        path = parts.path.rstrip("/")
        return cls(url.rstrip("/"), parts.hostname, parts.port, path, secure, token)

    def classify(self, task: str, file: str, top_k: int) -> Mapping[str, Any]:
        """Task, version and predictions; asks again while the gateway asks for that.

        Raises BadPicture, or Unanswered.
        """
        picture = _read(file)
        path = f"{self.path}/classify/{quote(task)}?{urlencode({'top_k': top_k})}"
        give_up = time.monotonic() + PATIENCE_S
        while True:
            status, again_s, content = self._ask("POST", path, picture)
            if status == 200:
                return self._answer(content)
            if status not in (429, 503) or time.monotonic() + again_s > give_up:
                raise self._refusal(status, content)
            time.sleep(again_s)

    def tasks(self) -> Iterator[Mapping[str, Any]]:
        """What the gateway says of each of its tasks, in order of their names.

        Raises Unanswered.
        """
        after: str | None = ""
        while after is not None:
            path = f"{self.path}/tasks?{urlencode({'after': after})}"
            status, _, content = self._ask("GET", path)
            if status != 200:
                raise self._refusal(status, content)
            if not isinstance(content, Mapping) or not isinstance(content.get("tasks"), list):
                raise self._stranger()
            yield from content["tasks"]
            after = content.get("next")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, float, Any]:
        """Status, seconds until the next attempt, and the JSON of the answer."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=ANSWER_S)
        headers = {} if body is None else {"content-type": "application/octet-stream"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        try:
            connection.connect()
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was sent
                connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = json.loads(response.read(LONGEST_ANSWER))
            return response.status, _seconds(response.getheader("retry-after")), content
        except OSError as error:
            raise Unanswered(
                f"no gateway answers at {self.url}: {error.strerror or error}\n"
                "start one with munet serve --store STORE, or give the address of one with --url"
            ) from None
        except (http.client.HTTPException, ValueError):
            raise self._stranger() from None
        finally:
            connection.close()

    def _answer(self, content: Any) -> Mapping[str, Any]:
        with suppress(KeyError, TypeError, ValueError):
            predictions = [
                {**one, "label": str(one["label"]), "probability": float(one["probability"])}
                for one in content["predictions"]
            ]
            return {**content, "predictions": predictions}
        raise self._stranger()

    def _refusal(self, status: int, content: Any) -> Exception:
        told = content if isinstance(content, Mapping) else {}
        if not str(told.get("type", "")).startswith("urn:munet:problem:"):
            return self._stranger()
        detail = str(told.get("detail", ""))[:SHOWN_CHARACTERS]
        if status in OF_THE_PICTURE:
            return BadPicture(detail)
        return Unanswered(detail + self._advice(status))

    def _advice(self, status: int) -> str:
        if status == 401 and self.token:
            return "\nMUNET_TOKEN has to hold a token that this gateway knows"
        if status in (401, 403) and not self.token:
            return "\nif you have a token for this gateway, set MUNET_TOKEN to it"
        return ""

    def _stranger(self) -> Unanswered:
        return Unanswered(
            f"expected a gateway at {self.url}, found something else that answers there\n"
            "give the gateway's address with --url"
        )


def _read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(LARGEST_PICTURE + 1)
    except IsADirectoryError:
        raise BadPicture("expected a picture, found a folder; name the files in it") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise BadPicture(getattr(error, "strerror", None) or str(error)) from None
    if len(data) > LARGEST_PICTURE:
        raise BadPicture(f"expected a picture, found more than {LARGEST_PICTURE >> 20} MiB")
    return data


def _seconds(retry_after: str | None) -> float:
    with suppress(ValueError):
        return max(0.1, float(retry_after or 1))
    return 1.0
