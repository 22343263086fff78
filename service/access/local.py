"""Which requests a user of this machine makes: without tokens, only these are answered.

Every program here reaches the gateway, also a browser, and so any page that the browser shows. A
request is local only if all of this holds:

- It comes from a loopback address.
- It is sent to a loopback address: a page's own host name may resolve to this machine.
- It is not from a page of another origin: browsers say so by `Origin` or `Sec-Fetch-Site`.
- It has passed no proxy: the proxy's address would be taken for that of its clients.

Over gRPC there is neither host nor browser: no browser speaks HTTP/2 without TLS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from service.errors import SettingsError

SHOWN_CHARACTERS = 80  # of a header
ANY = "*"
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z.-]+)(:[0-9]{1,5})?", re.ASCII)
ORIGIN = re.compile(rf"https?://{HOST.pattern}", re.ASCII)
LONGEST_HOST = 64  # characters of a loopback address and a port
OWN_SITE = ("same-origin", "none")  # `none`: typed or opened by the user
# Headers that proxies, balancers and content networks add, with "-" for "_".
PROXIES = frozenset({"forwarded", "via", "cdn-loop", "client-ip", "x-varnish", "x-rewrite-url"})
PREFIXES = (
    *("x-forwarded", "x-original-", "x-proxied-", "x-proxyuser-", "x-envoy-", "x-azure-", "x-nf-"),
    *("x-appengine-", "x-vercel-", "x-sucuri-", "x-amz-cf-", "x-akamai-", "akamai-", "incap-"),
    *("cf-", "fastly-", "fly-", "tailscale-", "ngrok-"),
)
ENDINGS = (
    *("-client-ip", "-clientip", "-connecting-ip", "-real-ip", "-src-ip", "-remote-ip"),
    *("-remote-addr", "-originating-ip"),
)

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case


def origins(text: str) -> frozenset[str]:
    """The origins of MUNET_CORS_ORIGINS, such as https://shop.example; raises SettingsError."""
    found = [one.strip() for one in text.split(",") if one.strip()]
    for one in found:
        if one != ANY and not ORIGIN.fullmatch(one):
            raise SettingsError(
                "starting the gateway: MUNET_CORS_ORIGINS must be origins separated by commas, as "
                f"browsers send them: https://shop.example or http://localhost:8080, or *; found "
                f"{one[:SHOWN_CHARACTERS]!r}"
            )
    return frozenset(found)


def foreign(
    peer: str | None, headers: Headers, scheme: str | None, allowed: frozenset[str]
) -> str | None:
    """Why a request is not local; None if it is.

    `peer` is the address of the socket's other end, None if it is not known; `scheme` is http or
    https, None over gRPC. Pages of the `allowed` origins are taken for local ones, but not those of
    any origin ("*").
    """
    if not is_loopback(peer or ""):
        return "it comes from another address"
    added = _by_proxy(tuple([name for name, _ in headers]))
    if added is not None:
        return f"it came through a proxy, which added {added[:SHOWN_CHARACTERS]!r}"
    if scheme is None:
        return None
    hosts: list[str] = []
    pages: list[str] = []
    sites: list[str] = []
    for name, value in headers:
        if name == b"host":
            hosts.append(value.decode("latin-1"))
        elif name == b"origin":
            pages.append(value.decode("latin-1"))
        elif name == b"sec-fetch-site":
            sites.append(value.decode("latin-1"))
    if len(hosts) != 1 or not _is_own(hosts[0]):
        shown = ", ".join(hosts)[:SHOWN_CHARACTERS]
        return f"its Host is {shown!r}, and not localhost or a loopback address"
    if not pages and not sites:
        return None
    return _of_page(pages, sites, f"{scheme}://{hosts[0].lower()}", allowed)


def _of_page(
    pages: Sequence[str], sites: Sequence[str], own: str, allowed: frozenset[str]
) -> str | None:
    if pages and all(page in allowed for page in pages):
        return None
    if any(page.lower() != own for page in pages) or any(site not in OWN_SITE for site in sites):
        page = ", ".join(pages)[:SHOWN_CHARACTERS] or "another site"
        return f"a page of {page} sent it, and MUNET_CORS_ORIGINS does not name that origin"
    return None


@lru_cache(64)  # a client sends the same headers with each request
def _by_proxy(names: tuple[bytes, ...]) -> str | None:
    """The first header of a proxy's."""
    texts = [name.decode("latin-1") for name in names]
    return next((name for name in texts if _is_of_proxy(name.replace("_", "-"))), None)


def _is_of_proxy(name: str) -> bool:
    return name in PROXIES or name.startswith(PREFIXES) or name.endswith(ENDINGS)


def _is_own(host: str) -> bool:
    """Whether the value of a `Host` header is this machine's loopback, with a port or without."""
    return len(host) <= LONGEST_HOST and _names_loopback(host)


@lru_cache(64)
def _names_loopback(host: str) -> bool:
    parts = HOST.fullmatch(host.lower())
    if parts is None:
        return False
    name = parts[1].strip("[]")
    return name == "localhost" or is_loopback(name)


@lru_cache(1024)
def is_loopback(text: str) -> bool:
    """Whether this is a loopback address: 127.0.0.0/8, ::1, or such a one mapped to IPv6."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, on a socket for both
    return (mapped or address).is_loopback
