"""Images in a bucket of a real S3 server."""

from __future__ import annotations

import pytest
from obstore import put
from obstore.store import from_url

from model_store.errors import StorageError
from model_store.files.buckets import Bucket
from service.bulk.sources import open_sources
from service.client import BadImage
from tests.model_store.places import Place
from tests.service.systems import png


def test_all_pictures_below_a_prefix_are_read(s3_store: Place) -> None:
    store = from_url(s3_store.url, client_options={"allow_http": True})
    for number, name in enumerate(("b.png", "a.png", "in/c.png", "in/list.json")):
        put(store, f"photos/{name}", png(number))
    put(store, "photos-of-others/d.png", png(9))
    source = open_sources([f"{s3_store.url}/photos"])
    items = list(source.items(0))
    names = [item.name.removeprefix(f"{s3_store.url}/photos/") for item in items]
    assert names == ["a.png", "b.png", "in/c.png"]
    assert [item.read() for item in items] == [png(1), png(0), png(2)]
    (gone,) = open_sources([f"{s3_store.url}/photos/gone.png"]).items(0)
    with pytest.raises(BadImage, match="no such object"):
        gone.read()
    with pytest.raises(ValueError, match="at most"):
        Bucket(s3_store.url).read(items[0].name, 10)


def test_a_bucket_that_does_not_answer_is_no_fault_of_an_image(
    s3_store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StorageError, match="listing"):
        list(Bucket(s3_store.url).urls(s3_store.url))
