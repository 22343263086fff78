"""Entries of a file of tokens, and requests with a token."""

from __future__ import annotations

import hashlib

import httpx

from service.access import Access, Grants
from tests.service.in_process import Gateway
from tests.service.systems import png


def entry(name: str, token: str, scopes: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\n{scopes}\n'


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def granted(guard: Access, token: str | None) -> Grants:
    """What a request from elsewhere may do."""
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return guard.grants(headers, "192.0.2.7", "http")


TOKENS = (
    entry("fruit", "f", 'classify = ["fruit/*"]')
    + entry("all", "a", 'classify = ["*"]\nread = true')
    + entry("owner", "o", 'classify = ["*", "secret/one"]\nread = true')
    + entry("reader", "r", "read = true")
    + entry("boss", "b", "admin = true")
)


def classify(gateway: Gateway, task: str, token: str | None, query: str = "") -> httpx.Response:
    headers = {} if token is None else bearer(token)
    return gateway.classify(task, png(1), query, **headers)


def look(guard: Access) -> None:
    """As its thread does each second."""
    assert guard._file is not None
    guard._file.look()
