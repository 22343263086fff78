"""A port that cannot be listened on is refused before anything is started."""

from __future__ import annotations

import socket

import pytest

from service.errors import SettingsError
from service.http.listening import require_port


def test_a_free_port_is_fine_again_and_again() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    require_port("127.0.0.1", port)
    require_port("127.0.0.1", port)
    require_port("0.0.0.0", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_listens_on(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} of {host}.*in use.*--port") as error:
            require_port(host, port)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("localhost", 3000, "--host .* IP address.*'localhost'"),
        ("127.0.0.1", 70_000, "port 70000 .*0 to 65535"),
        ("127.0.0.1", -1, "port -1 .*0 to 65535"),
        ("192.0.2.1", 3000, "192.0.2.1: .*; "),  # an address of documentation, nobody's
    ],
)
def test_what_is_no_port_of_this_machine(host: str, port: int, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        require_port(host, port)
