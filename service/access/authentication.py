"""Who may do what: bearer tokens with scopes and rates, from one TOML file that is followed.

    [[token]]
    name = "shop"
    sha256 = "…"                       # of the token; the token itself is stored nowhere
    classify = ["fruit/*", "staff/id"] # tasks, by pattern; a private one by its exact name only
    read = true                        # list tasks
    admin = false                      # load and unload, names of private tasks in the metrics
    rate = 5.0                         # requests per second; `burst`: at once
    burst = 10

An entry named `anonymous` has no digest: it is for all requests without a token. They share its
rate. Each message of a gRPC stream counts as a request. Without a file, requests from this machine
(`local.py`) may classify and read, other requests may do nothing, and nobody has admin.

Every protocol calls `Access.grants` once per request, before it reads the body, and then uses the
`Grants` that it got. Health and metrics need no token: probes and scrapes come from elsewhere.
`tasks/entry.py` says what others are told about a private task.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from starlette.types import Scope

from service.access.grants import LOCAL, NOTHING, Grants
from service.access.local import Headers, foreign, origins
from service.access.token_file import TokenFile
from service.errors import Forbidden, Unauthenticated


class Access:
    """The tokens of one gateway; any thread."""

    def __init__(
        self,
        file: str,
        pages: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        identified: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`file` is a path, "" for none; `pages` are the origins of web pages that may ask.

        `identified` is told the name of the token that a request came with.

        Raises SettingsError if they cannot be used.
        """
        self.pages = origins(pages)
        self._identified = identified
        self._file = TokenFile(Path(file), clock=clock) if file else None

    def start(self) -> None:
        """Starts to follow the file."""
        if self._file is not None:
            self._file.start()

    def stop(self) -> None:
        """Ends the following."""
        if self._file is not None:
            self._file.stop()

    @property
    def tokens_age_s(self) -> float:
        """Since the file could last be used; 0 if there is none."""
        return 0.0 if self._file is None else self._file.age_s

    def of(self, scope: Scope) -> Grants:
        """What an HTTP request may do; raises as `grants` does."""
        client = scope.get("client")
        return self.grants(scope["headers"], client and client[0], scope["scheme"])

    def is_admin(self, scope: Scope) -> bool:
        """Whether a request that needs no permission comes with a token for admin calls."""
        try:
            return self._known(scope["headers"]).admin
        except Unauthenticated:
            return False

    def grants(self, headers: Headers, peer: str | None, scheme: str | None = None) -> Grants:
        """As `rights`, of a request that counts; raises RateExceeded for a token that has asked too
        often.
        """
        grants = self.rights(headers, peer, scheme)
        grants.spend()
        return grants

    def rights(self, headers: Headers, peer: str | None, scheme: str | None = None) -> Grants:
        """What a request with these headers, their names in lower case, from this address may do.

        `peer` is the address of the socket's other end, None if it is not known; `scheme` is http
        or https, None over gRPC. Raises Unauthenticated for a token that is not known, Forbidden
        where there are no tokens and the request is not local.
        """
        if self._file is None:
            why = foreign(peer, headers, scheme, self.pages)
            if why is not None:
                raise Forbidden(
                    "only requests made on the gateway's own machine are answered until tokens are "
                    f"set up, and this request is not: {why}; MUNET_TOKENS names the file of tokens"
                )
            return LOCAL
        grants = self._known(headers)
        self._identified(grants.name)
        return grants

    def _known(self, headers: Headers) -> Grants:
        """Raises Unauthenticated."""
        given = [value for name, value in headers if name == b"authorization"]
        if self._file is None or not given:
            return (self._file and self._file.find("")) or NOTHING
        scheme, _, token = given[0].decode("latin-1").partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer":
            raise Unauthenticated("expected one `Authorization: Bearer …`, found something else")
        found = self._file.find(hashlib.sha256(token.strip().encode()).hexdigest())
        if found is None:
            raise Unauthenticated("the token is not known here")
        return found
