"""Entries of a file of tokens, and requests with a token."""

from __future__ import annotations

import hashlib

from service.access import Access, Grants


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
