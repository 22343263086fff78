"""Who may do what: bearer tokens with scopes, from one TOML file that is followed while running.

    [[token]]
    name = "shop"
    sha256 = "…"                       # of the token; the token itself stands nowhere
    classify = ["fruit/*", "staff/id"] # tasks, by pattern; a private one by its exact name only
    read = true                        # list tasks
    admin = false                      # load and unload

An entry named `anonymous` has no digest: it is for requests without a token. Without a file,
requests from this machine may classify and read, others nothing, and nobody has admin.

Every protocol asks `Access.grants` once per request and then the `Grants` it got. Health and
metrics ask nobody: probes and scrapes come from elsewhere. What a private task is to others is in
`tasks/hiding.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import typer
from starlette.requests import HTTPConnection

from service.errors import Forbidden, SettingsError, Unauthenticated
from service.telemetry.requests import identified

logger = logging.getLogger(__name__)
ANONYMOUS = "anonymous"
LOOK_EVERY_S = 1.0  # a token that is taken out of the file works for so long at most
SHOWN_CHARACTERS = 100  # of a task name that somebody sent
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")  # headers that a proxy adds
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")

Stamp = tuple[int, int, int]  # changes with the file


@dataclass(frozen=True, slots=True)
class Grants:
    """What one request may do."""

    name: str  # of the entry in the file
    classify: Sequence[str] = ()  # patterns
    read: bool = False
    admin: bool = False

    def classifies(self, task: str) -> bool:
        """Whether a task of this name may be asked to classify."""
        return any(fnmatchcase(task, pattern) for pattern in self.classify)

    def require_classify(self, task: str) -> None:
        """Raises Unauthenticated or Forbidden; whether there is such a task plays no part."""
        if not self.classifies(task):
            raise self._refusal(f"classify with task {task[:SHOWN_CHARACTERS]!r}")

    def require_read(self) -> None:
        """Raises Unauthenticated or Forbidden."""
        if not self.read:
            raise self._refusal("read what tasks there are")

    def require_admin(self) -> None:
        """Raises Unauthenticated or Forbidden."""
        if not self.admin:
            raise self._refusal("make admin calls")

    def sees(self, task: str, private: bool | None) -> bool:
        """Whether a task exists, as far as this request is told.

        Where it cannot be known whether it is private (None), only for those who look after the
        gateway: admins, and where there are no tokens those on its machine.
        """
        if private is None and (self.admin or self is LOCAL):
            return True
        return private is False or task in self.classify

    def _refusal(self, what: str) -> Unauthenticated | Forbidden:
        if self.name == ANONYMOUS:
            return Unauthenticated(f"a token is needed to {what}: Authorization: Bearer …")
        return Forbidden(f"{self.name} may not {what}; its entry in MUNET_TOKENS says what it may")


LOCAL = Grants("a request without tokens set up", classify=("*",), read=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str  # SHA-256 of the token; "" of anonymous, which no token has
    grants: Grants


class Access:
    """The tokens of one gateway; any thread."""

    def __init__(self, file: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`file` is a path, "" for none. Raises SettingsError if it cannot be used."""
        self._clock = clock
        self._file = Path(file) if file else None
        self._look_at = clock() + LOOK_EVERY_S
        self._stamp: Stamp | None = None
        self._entries: Sequence[_Entry] = ()
        if self._file is not None:
            try:
                self._stamp, self._entries = _stamp(self._file), _read(self._file)
            except (OSError, ValueError) as error:
                raise SettingsError(
                    f"starting the gateway: MUNET_TOKENS must be a TOML file of tokens, found "
                    f"{file!r}: {error}; `python -m service.access new NAME` prints an entry"
                ) from None

    def of(self, connection: HTTPConnection) -> Grants:
        """What an HTTP request may do; raises as `grants` does."""
        return self.grants(
            connection.headers.get("authorization"),
            connection.client.host if connection.client else None,
            forwarded=any(name in connection.headers for name in FORWARDED),
        )

    def is_admin(self, connection: HTTPConnection) -> bool:
        """Whether a request that needs no permission comes with a token for admin calls."""
        try:
            return self.of(connection).admin
        except (Unauthenticated, Forbidden):
            return False

    def grants(
        self, authorization: str | None, peer: str | None, *, forwarded: bool = False
    ) -> Grants:
        """What a request with this `Authorization` header from this address may do.

        `peer` is the address of the socket's other end, None if it is not known; `forwarded` says
        that a proxy sent it, so that the peer is not who asks. Raises Unauthenticated for a token
        that is not known, Forbidden where there are no tokens and the request is not local.
        """
        if self._file is None:
            if forwarded or not _is_loopback(peer):
                raise Forbidden(
                    "only requests from the gateway's own machine are answered until tokens are "
                    "set up: MUNET_TOKENS names the file"
                )
            return LOCAL
        self._follow(self._file)
        if authorization is None:
            wanted = ""
        else:
            scheme, _, token = authorization.partition(" ")
            wanted = hashlib.sha256(token.strip().encode()).hexdigest()
            if scheme.lower() != "bearer":
                raise Unauthenticated("expected `Authorization: Bearer …`, found another scheme")
        found = None if authorization is not None else Grants(ANONYMOUS)
        for entry in self._entries:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(entry.digest, wanted):
                found = entry.grants
        if found is None:
            raise Unauthenticated("the token is not known here")
        identified(found.name)
        return found

    def _follow(self, file: Path) -> None:
        """Reads the file again if it has changed; one that cannot be used changes nothing."""
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            stamp = _stamp(file)
            if stamp == self._stamp:
                return
            self._stamp, self._entries = stamp, _read(file)
            logger.info("event=tokens_read file=%s entries=%d", file, len(self._entries))
        except (OSError, ValueError) as error:
            logger.error("event=tokens_unusable file=%s kept=old error=%r", file, str(error))


@lru_cache(1024)
def _is_loopback(peer: str | None) -> bool:
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, on a socket for both
    return (mapped or address).is_loopback


def _stamp(file: Path) -> Stamp:
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path) -> Sequence[_Entry]:
    """Raises OSError or ValueError."""
    content = tomllib.loads(file.read_text("utf-8"))
    tables = content.pop("token", [])
    if content or not isinstance(tables, list):
        raise ValueError("expected nothing but tables [[token]]")
    entries = [_entry(table) for table in tables]
    names = [entry.grants.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two tokens have the same name")
    return entries


def _entry(table: Any) -> _Entry:
    if not isinstance(table, dict):
        raise ValueError("expected tables [[token]]")
    fields = {"read": False, "admin": False, "classify": [], "sha256": "", **table}
    name, digest, patterns = fields.pop("name", None), fields.pop("sha256"), fields.pop("classify")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"name must be up to 64 of A-Z a-z 0-9 . _ -, found {name!r}")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        if name != ANONYMOUS or digest != "":
            raise ValueError(f"token {name}: sha256 must be 64 hexadecimal digits")
    elif name == ANONYMOUS:
        raise ValueError(f"token {name}: it is for requests without a token and has no sha256")
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        raise ValueError(f"token {name}: classify must be a list of patterns")
    if fields.keys() != {"read", "admin"} or not all(type(one) is bool for one in fields.values()):
        raise ValueError(
            f"token {name}: expected name, sha256, classify, and read and admin as true or false"
        )
    return _Entry(digest, Grants(name, tuple(patterns), **fields))


app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def main() -> None:
    """Make tokens for the gateway."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    classify: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of tasks, or a private task's name. Repeatable."),
    ] = None,
    read: Annotated[bool, typer.Option("--read", help="May list tasks.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="May load and unload tasks.")] = False,
) -> None:
    """Print a fresh token (on stderr) and its entry for the file (on stdout, to be appended)."""
    if not NAME.fullmatch(name) or name == ANONYMOUS:
        raise typer.BadParameter(f"expected up to 64 of A-Z a-z 0-9 . _ -, found {name!r}")
    token = "munet_" + secrets.token_urlsafe(32)
    typer.echo(f"token, shown only now: {token}", err=True)
    typer.echo(
        f"[[token]]\nname = {json.dumps(name)}\n"
        f"sha256 = {json.dumps(hashlib.sha256(token.encode()).hexdigest())}\n"
        f"classify = {json.dumps(classify or [])}\n"
        f"read = {json.dumps(read)}\nadmin = {json.dumps(admin)}"
    )


if __name__ == "__main__":
    app(prog_name="python -m service.access")
