"""A roll-out in two gateways, one of them a real server, that follow one store on S3."""

from __future__ import annotations

from pathlib import Path

from model_store import Rollout, Rules
from model_store.rollouts import draw
from tests.model_store.places import Place
from tests.service.conftest import MAX_ROWS
from tests.service.in_process import Gateway
from tests.service.servers import Server
from tests.service.systems import png, publish
from tests.service.waiting import eventually


def rollbacks(page: str) -> float:
    """How many roll-outs a gateway has ended, by its metrics."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("munet_rollbacks_total{")
    )


def test_both_send_a_key_the_same_way_and_one_of_them_ends_it(
    s3_store: Place, compilations: str, tmp_path: Path
) -> None:
    store = s3_store.open(create=True)
    publish(store, "t", own={"head": 1})
    publish(store, "t", own={"head": 2})
    store.rollback("t", 1)
    variables = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": str(MAX_ROWS),
        "MUNET_PRELOAD": "*",
        **s3_store.environment,
    }
    with Server(".", tmp_path / "home", **variables) as server:
        gateway = Gateway(store, compilations, preload="*")
        try:
            assert gateway.classify("t", png(0)).json()["version"] == 1
            assert server.classify("t", png(0)).json["version"] == 1
            store.alias("t", "canary", 2, Rollout(0.5, shadow=True, rules=Rules(10**6)))
            canary = next(key for key in map(str, range(99)) if draw("t", 2, key.encode()) < 0.5)

            def versions(key: str) -> set[int]:
                headers = {"content-type": "image/png", "munet-rollout-key": key}
                mine = gateway.classify("t", png(0), munet_rollout_key=key).json()["version"]
                theirs = server.ask("POST", "/classify/t", png(0), headers).json["version"]
                return {mine, theirs}

            eventually(lambda: versions(canary) == {2})  # both have loaded it
            for key in map(str, range(20)):
                assert versions(key) == {2 if draw("t", 2, key.encode()) < 0.5 else 1}
            # Their heads differ: of three copies, not all agree.
            store.alias("t", "canary", 2, Rollout(shadow=True, rules=Rules(3, agreement=1.0)))
            eventually(lambda: versions(canary) == {1})  # both know of it
            seeds = iter(range(10**6))

            def ended() -> str:
                seed = next(seeds)
                assert gateway.classify("t", png(seed)).json()["version"] == 1
                assert server.classify("t", png(seed)).json["version"] == 1
                return store.rollouts("t")["canary"].ended

            assert eventually(ended).startswith("agreement: ")
            for page in (lambda: gateway.request("GET", "/metrics").text, server.metrics):
                eventually(lambda page=page: 'alias="canary"' not in page())  # both have stopped
            pages = gateway.request("GET", "/metrics").text, server.metrics()
            assert sum(map(rollbacks, pages)) == 1
        finally:
            gateway.close()
