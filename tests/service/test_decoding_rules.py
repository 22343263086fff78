"""A file is decoded by the rules of the version that is asked, and as training decodes it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_store import ModelStore, Published
from service.errors import BadImage
from service.images import Decoded, File, FilePicture, decode
from service.tasks import specs
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.pictures.kinds import FILES, REFUSED, ink, orientation, turned_jpeg
from tests.service.pictures.made import noise, saved, with_segments
from tests.service.systems import TINY, image, multipath, publish
from vit import decode as files
from vit import preprocess
from vit.contract import Contract
from vit.decode import DECODINGS, TENSORFLOW, VIEWER
from vit.decode import decode as trained_on

LIMIT = 10**6
PHOTO = noise(420, 340)
LARGE = {
    "large": saved(PHOTO, "JPEG"),
    "tall": saved(PHOTO.rotate(90, expand=True), "JPEG", subsampling=0),
    "progressive": saved(PHOTO, "JPEG", progressive=True),
    "grey": saved(PHOTO.convert("L"), "JPEG"),
    "four inks": saved(PHOTO.convert("CMYK"), "JPEG"),
    "turned": with_segments(saved(PHOTO, "JPEG"), [(0xE1, b"Exif\0\0" + orientation(6))]),
}
INK = saved(ink(), "PNG")
BLACK, ON_WHITE = (saved(Image.fromarray(trained_on(INK, rules)), "PNG")
                   for rules in (TENSORFLOW, VIEWER))  # fmt: skip


def named(published: Published, store: ModelStore, **rules: Any) -> Published:
    """The same version again, with rules in its input."""
    return store.publish(replace(published.path, input={**published.path.input, **rules}))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    for task, rules in [
        ("unsaid", {}), ("viewer", {"decoding": "viewer"}),
        ("tensorflow", {"decoding": "tensorflow"}), ("newer", {"decoding": "of later"}),
        ("bits", {"decoding": "viewer", "pixel_scale": 255}),
        ("reduced", {"decoding": "viewer", "jpeg": "reduced"}), ("newer-jpeg", {"jpeg": "smaller"}),
    ]:  # fmt: skip
        named(publish(store, task, own={"head": 0}), store, **rules)
    made = Gateway(store, compilations)
    yield made
    made.close()


def odds(gateway: Gateway, task: str, body: bytes) -> list[float]:
    answer = gateway.classify(task, body)
    assert answer.status_code == 200, answer.text
    return by_index(answer.json()["predictions"])


def by_index(predictions: list[dict[str, Any]]) -> list[float]:
    found = {one["index"]: one["probability"] for one in predictions}
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize("rules", DECODINGS)
@pytest.mark.parametrize("name", FILES)
def test_serving_decodes_as_training_does_bit_for_bit(name: str, rules: str) -> None:
    decoding, sizes = DECODINGS[rules], [8, 30]
    served = decode(FILES[name], sizes, max_pixels=LIMIT, decoding=decoding)
    for size in sizes:
        assert np.array_equal(
            served[size].pixels, preprocess(trained_on(FILES[name], decoding), size)
        )


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_trained_on_is_not_served(kind: str) -> None:
    data, text = REFUSED[kind]
    with pytest.raises(BadImage, match=text):
        decode(data, [8], max_pixels=LIMIT)


def test_each_version_sees_a_file_by_its_own_rules(gateway: Gateway) -> None:
    assert odds(gateway, "tensorflow", INK) == odds(gateway, "tensorflow", BLACK)
    for task in ("viewer", "unsaid"):
        assert odds(gateway, task, INK) == odds(gateway, task, ON_WHITE)
        assert odds(gateway, task, INK) != odds(gateway, task, BLACK)
    for turn in (3, 6):
        as_stored = odds(gateway, "tensorflow", turned_jpeg(1))
        assert odds(gateway, "tensorflow", turned_jpeg(turn)) == as_stored
        assert odds(gateway, "viewer", turned_jpeg(turn)) != as_stored
    bits = np.asarray(image(1, (16, 16), "L")) > 127
    one, all_bits = (saved(Image.fromarray(bits * np.uint8(n)), "PNG") for n in (1, 255))
    assert odds(gateway, "bits", one) == odds(gateway, "viewer", all_bits)


def test_one_image_for_versions_of_different_rules(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded once by each of the rules; where pixels are equal, rows meet."""
    tasks = ("tensorflow", "viewer", "unsaid")
    alone = {task: odds(gateway, task, INK) for task in tasks}
    decoded: list[str] = []
    real = FilePicture.decoded

    def counted(picture: FilePicture, sizes: Iterable[int]) -> Mapping[int, Decoded]:
        decoded.append(picture.decoding.name)
        return real(picture, sizes)

    monkeypatch.setattr(FilePicture, "decoded", counted)
    met = gateway.metric("munet_rows_shared_total")
    query = "&".join(f"task={task}" for task in tasks)
    answer = gateway.request("POST", f"/classify?{query}", content=INK, headers=OCTETS)
    assert answer.status_code == 200, answer.text
    for one in answer.json()["results"]:  # of a larger batch, whose sums are rounded otherwise
        assert by_index(one["predictions"]) == pytest.approx(alone[one["task"]], abs=1e-4)
    assert sorted(decoded) == ["tensorflow", "viewer"]
    assert gateway.metric("munet_rows_shared_total") > met  # of those that a viewer's rules serve
    assert alone["tensorflow"] != pytest.approx(alone["viewer"], abs=1e-2)


@pytest.mark.parametrize("name", ["large", "tall", "progressive", "grey", "four inks", "turned"])
def test_a_reduced_jpeg_has_the_pixels_of_training_and_no_others(name: str) -> None:
    """Each size has the scale that it has in a request of its own."""
    rules = replace(VIEWER, reduced=True)
    file = LARGE[name]
    crop = Contract(16, "bicubic", 20, (0.5,) * 3, (0.5,) * 3)
    wanted = [8, 30, 16, 300, crop]
    together = decode(file, wanted, max_pixels=LIMIT, decoding=rules)
    whole = decode(file, wanted, max_pixels=LIMIT)
    for target in wanted:
        trained = preprocess(trained_on(file, rules, target), target)
        assert np.array_equal(together[target].pixels, trained)
        is_whole = np.array_equal(trained, whole[target].pixels)
        assert is_whole == (target == 300)  # which is more than half of its sides


def test_memory_is_that_of_what_is_really_decoded() -> None:
    whole = File(LARGE["large"]).look(LIMIT)
    reduced = whole.by(replace(VIEWER, reduced=True))
    assert reduced.memory([8])[0] < reduced.memory([60])[0] < whole.memory([60])[0]
    assert reduced.memory([8, 60])[0] >= reduced.memory([60])[0]  # the larger one of both
    assert reduced.memory([300]) == whole.memory([300])


def test_the_pixels_of_one_scale_are_freed_before_the_next_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is taken for the larger of both decodings, not for their sum."""
    read = files.read
    made: list[weakref.ref[np.ndarray]] = []

    def noted(*of: Any) -> np.ndarray:
        assert all(one() is None for one in made)
        pixels = read(*of)
        made.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(files, "read", noted)
    picture = File(LARGE["large"]).look(LIMIT).by(replace(VIEWER, reduced=True))
    assert len(picture.decoded([8, 60, 300])) == len(made) == 3


def test_one_photograph_for_tasks_of_which_some_reduce_it(gateway: Gateway) -> None:
    file = LARGE["large"]
    tasks = ("reduced", "viewer", "unsaid")
    alone = {task: odds(gateway, task, file) for task in tasks}
    assert alone["unsaid"] == alone["viewer"] != pytest.approx(alone["reduced"], abs=1e-4)
    query = "&".join(f"task={task}" for task in tasks)
    answer = gateway.request("POST", f"/classify?{query}", content=file, headers=OCTETS)
    for one in answer.json()["results"]:
        assert by_index(one["predictions"]) == pytest.approx(alone[one["task"]], abs=1e-4)
    for small in ("photo.jpg", "plain.png"):  # an input of 16 pixels leaves nothing to reduce
        assert odds(gateway, "reduced", FILES[small]) == odds(gateway, "viewer", FILES[small])


def test_rules_of_a_later_version_are_refused_with_what_to_do(gateway: Gateway) -> None:
    body = refused(gateway.classify("newer", INK), 503, "unavailable")
    expected = "expected one of viewer, tensorflow, upright, found 'of later'; update the gateway"
    assert expected in body["detail"]
    body = refused(gateway.classify("newer-jpeg", INK), 503, "unavailable")
    assert "jpeg: expected reduced, or no such field, found 'smaller'" in body["detail"]


def test_all_parts_of_a_multipath_version_see_the_same_pixels(tmp_path: Any) -> None:
    store = ModelStore(tmp_path, create=True)
    parts = [publish(store, "main"), publish(store, "small", replace(TINY, image_size=8))]
    document = multipath(store, "two", parts).to_json()
    document["input"]["decoding"] = "tensorflow"
    with pytest.raises(specs.UnservablePath, match="input of path_0"):
        specs.read(type(parts[0].path).from_json(document))
    for part in document["subpaths"]:
        part["input"]["decoding"] = "tensorflow"
    assert len(specs.read(type(parts[0].path).from_json(document)).networks) == 2
