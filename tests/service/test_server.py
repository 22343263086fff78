"""A real `bentoml serve`: changes of the store under load, and abuse that must leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.conftest import Served
from tests.service.servers import Load, Reply, programs
from tests.service.systems import bomb, encoded, image, png, publish
from tests.service.waiting import eventually

ROUNDS = 3
POLLS = 'munet_catalog_polls_total{outcome="ok"} '


@pytest.fixture(scope="module", autouse=True)
def programs_before(served: Served) -> float:
    """Made ready before these tests; other tests may have asked the same server for other kinds."""
    assert served.server.classify("plain", png(1)).status == 200
    return programs(served.server)


def test_raw_and_form_get_the_same_answer(served: Served) -> None:
    raw = served.server.classify("plain", png(1))
    assert raw.status == 200, raw.body
    assert raw.json["task"] == "plain"
    assert len(raw.json["predictions"]) == 3
    form = (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.png"\r\n\r\n'
        + png(1)
        + b"\r\n--x--\r\n"
    )
    media = {"content-type": "multipart/form-data; boundary=x"}
    other = served.server.ask("POST", "/classify/plain", form, media)
    assert other.json["predictions"] == raw.json["predictions"]


def test_health_tasks_and_metrics_are_ours(served: Served) -> None:
    for path in ("/livez", "/healthz", "/readyz"):
        assert served.server.ask("GET", path).status == 200
    names = [task["id"] for task in served.server.ask("GET", "/tasks").json["tasks"]]
    assert {"plain", "group/other"} <= set(names)
    assert served.server.ask("GET", "/tasks/group/other").json["labels"][0] == "group/other:0"
    text = served.server.metrics()
    assert "munet_batch_rows_bucket" in text
    assert "bentoml_service" not in text
    assert "MULTIPROC" not in served.server.log.read_text()


def test_every_change_of_the_store_shows_without_a_failed_request(served: Served) -> None:
    """New task, new version, rollback, removal; two tasks are asked without a pause meanwhile."""
    server, store = served.server, served.store
    server.classify("plain", png(1))
    server.classify("changing", png(1))
    with Load(server, ["plain", "changing"], png(1)) as load:
        for turn in range(ROUNDS):
            publish(store, "hot/new", own={"encoderblock_1": 10 + turn})
            assert server.classify("hot/new", png(1)).status == 200  # at once
            latest = publish(store, "changing", own={"head": 50 + turn}).version
            eventually(version_is(served, "changing", latest))
            store.rollback("changing", 1)
            eventually(version_is(served, "changing", 1))
            store.rm("hot/new")
            after_a_look(served)
            assert server.classify("hot/new", png(1)).status == 404
    assert not load.broken
    assert {reply.status for _, reply in load.replies} == {200}
    assert len(load.replies) > 20
    answers = {task: {str(r.json["predictions"]) for t, r in load.replies if t == task}
               for task in ("plain", "changing")}  # fmt: skip
    assert len(answers["plain"]) == 1  # nothing leaks from one task into another
    assert 2 <= len(answers["changing"]) <= 1 + ROUNDS


def after_a_look(served: Served) -> None:
    """When a look at the store that began after this call has ended."""

    def looks() -> float:
        lines = served.server.metrics().splitlines()
        (line,) = (one for one in lines if one.startswith(POLLS))
        return float(line.removeprefix(POLLS))

    enough = looks() + 2
    eventually(lambda: looks() >= enough)


def version_is(served: Served, task: str, version: int) -> Callable[[], bool]:
    return lambda: served.server.classify(task, png(1)).json["version"] == version


def series(text: str) -> set[str]:
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}


@pytest.fixture
def healthy(served: Served) -> Callable[[], None]:
    """A check that the gateway answers as it did before."""
    before = served.server.classify("plain", png(1)).json["predictions"]

    def check() -> None:
        after = served.server.classify("plain", png(1))
        assert after.status == 200
        assert after.json["predictions"] == before
        assert served.server.ask("GET", "/livez").status == 200

    return check


def refused(reply: Reply, status: int) -> None:
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status


def test_hostile_bodies(served: Served, healthy: Callable[[], None]) -> None:
    refused(served.server.classify("plain", b"not an image"), 400)
    refused(served.server.classify("plain", b""), 400)
    refused(served.server.classify("plain", encoded(image(1))[:-60]), 400)
    huge = bomb(10_000)
    assert len(huge) < 50_000
    refused(served.server.classify("plain", huge), 413)
    healthy()


def test_a_body_of_50_megabytes(served: Served, healthy: Callable[[], None]) -> None:
    refused(served.server.classify("plain", b"\0" * 50 * 2**20), 413)
    chunks = iter([b"\0" * 2**20] * 50)
    media = {"content-type": "image/png", "transfer-encoding": "chunked"}
    connection = served.server.connect()
    try:
        connection.request("POST", "/classify/plain", chunks, media, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before the end: what is left was not read
    else:
        assert connection.getresponse().status == 413
    connection.close()
    healthy()


@pytest.mark.parametrize(
    "path",
    [
        "/classify/../../etc/passwd",
        "/classify/%2e%2e/%2e%2e/etc/passwd",
        "/classify/..%2f..%2fetc%2fpasswd",
        "/classify/plain/../plain",
        "/classify/%00",
        "/classify/%ff%fe%fd",
        "/classify/" + "x" * 5000,
    ],
)
def test_task_names_that_are_paths(served: Served, path: str) -> None:
    refused(served.server.ask("POST", path, png(1), {"content-type": "image/png"}), 404)


def test_wrong_methods(served: Served) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        reply = served.server.ask(method, "/classify/plain")
        refused(reply, 405)
        assert reply.headers["allow"] == "POST"


def test_a_thousand_junk_names_mint_no_series(served: Served, healthy: Callable[[], None]) -> None:
    served.server.classify("junk", png(1))  # so that the series of unknown tasks exists
    before = series(served.server.metrics())

    def knock(number: int) -> int:
        served.server.ask("GET", f"/junk/{number}")
        return served.server.classify(f"junk-{number}", png(1)).status

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(knock, range(1000))) == {404}
    text = served.server.metrics()
    assert "junk" not in text
    assert series(text) == before
    healthy()


def test_nothing_was_compiled_for_a_request(served: Served, programs_before: float) -> None:
    """After all that: no program more than before it, though many were published."""
    served.server.classify("plain", png(1))
    assert programs(served.server) == programs_before
    assert "Traceback" not in served.server.log.read_text()
