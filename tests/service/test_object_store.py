"""A gateway on a store in S3: loads, takes in new versions, and outlives the server."""

from model_store.upkeep import collect_garbage
from tests.model_store.places import Place
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually


def test_tasks_are_served_from_an_object_store(s3_store: Place, compilations: str) -> None:
    store = s3_store.open(create=True)
    publish(store, "early")
    gateway = Gateway(store, compilations)
    try:
        assert gateway.classify("early", png(1)).json()["version"] == 1
        publish(store, "late")
        assert gateway.classify("late", png(1)).status_code == 200
        publish(store, "early", own={"head": 5})
        eventually(lambda: gateway.classify("early", png(1)).json()["version"] == 2)
        store.rollback("early", 1)
        eventually(lambda: gateway.classify("early", png(1)).json()["version"] == 1)
        store.rm("late")
        eventually(lambda: gateway.classify("late", png(1)).status_code == 404)
        collect_garbage(store, grace_s=0)
        assert gateway.classify("early", png(1)).json()["version"] == 1
    finally:
        gateway.close()
