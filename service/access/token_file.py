"""The file of tokens: read at start, then followed by a thread of its own.

A request never reads the file: it goes by what was read last, also if the file is damaged or its
disk is slow. A file that cannot be used changes only the log and the metric of its age.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.access.grants import ANONYMOUS, Grants
from service.access.plain_files import Stamp, opened
from service.access.rates import Bucket
from service.errors import SettingsError

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0  # a token that is taken out of the file works at most this long
LAST_LOOK_S = 0.1  # that the end waits for: the disk may hang
MAX_BYTES = 1 << 20  # some 5,000 tokens
MAX_DOTS = 8  # of one key: what a deeply nested one costs grows with its square
FASTEST, LARGEST = 1e6, 10**6  # rate and burst
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
QUOTED = re.compile(r"""#.*|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
FIELDS: Mapping[str, Any] = {
    **{"name": None, "sha256": "", "classify": [], "read": False, "admin": False},
    **{"rate": None, "burst": None},
}

Tokens = Mapping[str, Grants]  # by the SHA-256 of the token, "" for requests without one


class TokenFile:
    """The tokens of a file, as they were when it could last be used; any thread."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises SettingsError if it cannot be used."""
        self._path = path
        self._clock = clock
        self._tokens: Tokens = {}  # replaced, never changed
        self._stamp: Stamp | None = None
        self._complaint = ""  # the last one in the log, while the file cannot be used
        self._good_at = clock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tokens", daemon=True)
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"starting the gateway: MUNET_TOKENS must be a TOML file of tokens, found "
                f"{str(path)!r}: {error}; `munet token new NAME` prints an entry"
            ) from None

    def start(self) -> None:
        """Starts to follow the file."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, unless it hangs in the disk."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(LAST_LOOK_S)

    def find(self, digest: str) -> Grants | None:
        """What the token of this SHA-256 may do; "" stands for none.

        The time of the search reveals nothing useful: a client who could choose digests near a
        stored one could also choose a token with that digest.
        """
        return self._tokens.get(digest)

    @property
    def age_s(self) -> float:
        """Since the file was last read, or found unchanged; grows while it cannot be used."""
        return self._clock() - self._good_at

    def look(self) -> None:
        """Reads the file again if it has changed."""
        try:
            if self._read():
                logger.info("event=tokens_read file=%s entries=%d", self._path, len(self._tokens))
            self._complaint = ""
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error(
                    "event=tokens_unusable file=%s kept=old error=%r", self._path, str(error)
                )

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            self.look()

    def _read(self) -> bool:
        """Whether there was anything new. Raises OSError or ValueError."""
        with opened(self._path) as file:
            new = file.stamp != self._stamp
            if new:
                self._tokens = parse(file.read(MAX_BYTES), self._tokens, self._clock)
                self._stamp = file.stamp
        self._good_at = self._clock()
        return new


def parse(data: bytes, before: Tokens, clock: Callable[[], float]) -> Tokens:
    """The entries of a file. Raises ValueError.

    Entries whose rate is the same as `before` keep what they have used of it.
    """
    buckets = {grants.name: grants.bucket for grants in before.values()}
    tokens = [_token(table, buckets, clock) for table in _tables(data)]
    if len({grants.name for _, grants in tokens}) < len(tokens):
        raise ValueError("two tokens have the same name")
    if len({digest for digest, _ in tokens}) < len(tokens):
        raise ValueError("two tokens have the same sha256")
    return dict(tokens)


def _tables(data: bytes) -> list[Any]:
    text = data.decode("utf-8")
    keys = re.split(r"[=,\n{}\[\]]", QUOTED.sub("", text))
    if max(key.count(".") for key in keys) > MAX_DOTS:
        raise ValueError("a key is nested too deeply")
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    tables = content.pop("token", [])
    if content or not isinstance(tables, list):
        raise ValueError("expected nothing but tables [[token]]")
    return tables


def _token(
    table: Any, buckets: Mapping[str, Bucket | None], clock: Callable[[], float]
) -> tuple[str, Grants]:
    if not isinstance(table, dict):
        raise ValueError("expected tables [[token]]")
    fields = {**FIELDS, **table}
    name, digest, patterns = fields["name"], fields["sha256"], fields["classify"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"name must be up to 64 of A-Z a-z 0-9 . _ -, found {str(name)[:80]!r}")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        if name != ANONYMOUS or digest != "":
            raise ValueError(f"token {name}: sha256 must be 64 hexadecimal digits")
    elif name == ANONYMOUS:
        raise ValueError(f"token {name}: it is for requests without a token and has no sha256")
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        raise ValueError(f"token {name}: classify must be a list of patterns")
    flags = {flag: fields[flag] for flag in ("read", "admin")}
    if fields.keys() != FIELDS.keys() or not all(type(one) is bool for one in flags.values()):
        raise ValueError(
            f"token {name}: expected name, sha256, classify, rate and burst, and read and admin as "
            "true or false"
        )
    bucket = _bucket(name, fields["rate"], fields["burst"], buckets.get(name), clock)
    return digest, Grants(name, tuple(patterns), **flags, bucket=bucket)


def _bucket(
    name: str, rate: Any, burst: Any, before: Bucket | None, clock: Callable[[], float]
) -> Bucket | None:
    """A rate without a burst allows the requests of one second at once."""
    if rate is None:
        if burst is not None:
            raise ValueError(f"token {name}: burst goes with a rate")
        return None
    if type(rate) not in (int, float) or not 0 < rate <= FASTEST:
        raise ValueError(f"token {name}: rate must be requests per second, above zero")
    burst = max(1, round(rate)) if burst is None else burst
    if type(burst) is not int or not 0 < burst <= LARGEST:
        raise ValueError(f"token {name}: burst must be a whole number of requests, above zero")
    if before is not None and (before.rate, before.burst) == (rate, burst):
        return before
    return Bucket(rate, burst, clock=clock)
