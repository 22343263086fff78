"""`munet serve` becomes a process of BentoML: what it hands over to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from service.host import command

Handed = tuple[Sequence[str], Mapping[str, str]]  # arguments and environment


class Became(BaseException):
    """The process is another program from here on."""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Handed]:
    """Calls the command with a port."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")

    def serving(port: int) -> Handed:
        with monkeypatch.context() as replaced, pytest.raises(Became) as became:
            replaced.setattr("os.execve", _become)
            command.serve(str(tmp_path / "store"), port)
        return became.value.args[0]

    return serving


def _become(_: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    raise Became((arguments, environment))


def test_bentoml_gets_the_gateway_and_the_port(serve: Callable[[int], Handed]) -> None:
    arguments, environment = serve(3456)
    top = str(command.TOP)
    expected = ["serve", command.GATEWAY, "--working-dir", top, "--port", "3456"]
    assert list(arguments[1:]) == expected
    assert environment["MUNET_STORE"].endswith("/store")
    assert environment["BENTOML_DO_NOT_TRACK"] == "True"


def test_bentomls_files_are_in_the_checkout_or_in_the_users_cache_a_folder_for_each_port(
    serve: Callable[[int], Handed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serve(3456)[1]["BENTOML_HOME"] == str(command.TOP / "build" / "bentoml-3456")
    monkeypatch.setattr(command, "TOP", tmp_path / "site-packages")  # installed
    expected = tmp_path / "home" / ".cache" / "munet" / "bentoml-3457"
    assert serve(3457)[1]["BENTOML_HOME"] == str(expected)
    monkeypatch.setenv("BENTOML_HOME", "/mine")
    assert serve(3457)[1]["BENTOML_HOME"] == "/mine"
