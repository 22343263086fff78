"""What a registry asks for, and the credentials that `docker login` and its like have written.

$DOCKER_CONFIG/config.json or ~/.docker/config.json: a helper for one registry (`credHelpers`), one
for all (`credsStore`), or the secret itself (`auths`), in this order. Nothing is written there.
"""

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from model_store.errors import RegistryError

# What Docker's registry is called in the configuration.
_DOCKER_HUB, _DOCKER_HUB_KEY = "docker.io", "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_TIMEOUT_S = 60.0  # it may ask the user
_TOKEN_USER = "<token>"  # what a helper answers as the name of one who logged in with a token


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry knows somebody by: a name and a password, or an identity token."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def credentials_of(host: str) -> Credentials | None:
    """What is configured for a registry; None if nothing is.

    Raises RegistryError for a configuration that cannot be read or a helper that fails.
    """
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RegistryError(f"reading the credentials in {path}: {error}; log in again") from error
    keys = _keys(host)
    helpers = _object(config, "credHelpers")
    for helper in dict.fromkeys(
        [*(helpers.get(key) for key in keys), _value(config, "credsStore")]
    ):
        found = _from_helper(helper, keys[0]) if helper else None
        if found:
            return found
    auths = _object(config, "auths")
    entries = (_from_entry(auths[key], key, path) for key in keys if key in auths)
    return next((entry for entry in entries if entry), None)


def _keys(host: str) -> Sequence[str]:
    if host == _DOCKER_HUB:
        return [_DOCKER_HUB_KEY]
    return [host, *(f"{scheme}://{host}{end}" for scheme in ("https", "http") for end in _ENDINGS)]


_ENDINGS = ("", "/", "/v1/", "/v2/")  # as different tools have written them


def _from_helper(helper: object, key: str) -> Credentials | None:
    """Ask `docker-credential-<helper>`; None if it knows nothing of this registry."""
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        raise RegistryError(f"credential helper {helper!r}: expected the end of a program's name")
    program = f"docker-credential-{helper}"
    what = f"asking {program} for the credentials of {key}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=key,
            capture_output=True,
            text=True,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise RegistryError(f"{what}: it is not on the PATH; install it or log in again") from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"{what}: {error}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        if "credentials not found" in said:
            return None
        raise RegistryError(f"{what}: exit code {done.returncode}, {said[:200]!r}; log in again")
    try:
        answer = json.loads(done.stdout)
        return _credentials(str(answer["Username"]), str(answer["Secret"]))
    except (ValueError, KeyError, TypeError):
        raise RegistryError(f"{what}: expected JSON with Username and Secret") from None


def _credentials(username: str, secret: str) -> Credentials:
    if username == _TOKEN_USER:
        return Credentials("", identity_token=secret)
    return Credentials(username, secret)


def _from_entry(entry: object, key: str, path: Path) -> Credentials | None:
    """What stands in `auths`; None for the empty entry that goes with a helper."""
    token = _value(entry, "identitytoken")
    if isinstance(token, str) and token:
        return Credentials("", identity_token=token)
    encoded = _value(entry, "auth")
    if not encoded:
        return None
    try:
        decoded = base64.b64decode(str(encoded), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        decoded = ""
    username, colon, password = decoded.partition(":")
    if not colon:
        raise RegistryError(
            f"credentials of {key} in {path}: auth is not the base64 of name:password; log in again"
        )
    return Credentials(username, password)


def _value(document: object, name: str) -> object:
    return cast(dict[str, Any], document).get(name) if isinstance(document, dict) else None


def _object(document: object, name: str) -> dict[str, Any]:
    value = _value(document, name)
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


_WORD = re.compile(r'([A-Za-z_]+)(\s*=\s*(?:"([^"]*)"|([^\s,"]*)))?')


def challenges(header: str) -> dict[str, dict[str, str]]:
    """Scheme in lower case -> its parameters, of a WWW-Authenticate header."""
    found: dict[str, dict[str, str]] = {}
    parameters: dict[str, str] = {}
    for name, value, quoted, bare in _WORD.findall(header):
        if value:
            parameters[name.lower()] = quoted or bare
        else:
            parameters = found.setdefault(name.lower(), {})
    return found
