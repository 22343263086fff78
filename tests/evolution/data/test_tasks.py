"""Tasks from the shipped data and from made-up data sets: splits, labels, pixels, errors."""

import io
import logging
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from evolution.data import splits, vtab
from evolution.data.preparing import prepare
from evolution.data.splits import MUNET_SPLITS, Label, SplitRule
from evolution.data.tasks import Split, StreamedSplit, TaskError, TaskSource, load
from evolution.data.vtab import VtabTask, kitti_count_vehicles
from model_store import InvalidName
from tests.data import DATA
from vit import preprocess

GREY = tfds.features.Image(shape=(4, 6, 1))
MIXED = tfds.features.Image(shape=(None, None, 3))
RNG = np.random.default_rng(0)


def made_up(name: str, data_dir: Path, features: dict, examples: dict[str, list[dict]]) -> None:
    """Registers a data set with TFDS and prepares it; `examples` by split, in order of reading."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def generate(rows):
        yield from enumerate(rows)

    body = {
        "__doc__": "Made up.",
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, _: {k: generate(v) for k, v in examples.items()},
        "_generate_examples": None,
    }
    type("".join(map(str.capitalize, name.split("_"))), (tfds.core.GeneratorBasedBuilder,), body)
    prepare(name, data_dir)


def grey(count: int, **others) -> list[dict]:
    """Examples of 4 x 6 grey pixels in three classes."""
    images = RNG.integers(0, 256, (count, 4, 6, 1), dtype=np.uint8)
    return [{"image": image, "label": i % 3, **others} for i, image in enumerate(images)]


def png(image: Image.Image) -> io.BytesIO:
    """An encoded image as a builder may give it: as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return io.BytesIO(file.getvalue())


@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("cmaterdb/bangla", 4000, 1000, 1000),
        ("cmaterdb/devanagari", 2000, 500, 500),
        ("cmaterdb/telugu", 2000, 500, 500),
    ],
)
def test_the_tasks_of_cmaterdb_have_the_published_splits(name, train, validation, test):
    task = load(name, (DATA,), memory_limit=test * 32 * 32 * 3)
    assert [len(s) for s in (task.train, task.validation, task.test)] == [train, validation, test]
    assert task.train.shape == (32, 32, 3)
    assert task.labels == tuple("0123456789") and task.num_classes == 10
    assert isinstance(task.test, Split) and set(np.unique(task.test.labels)) == set(range(10))


def test_a_table_of_splits_is_chosen_by_the_caller():
    task = load("cmaterdb/bangla", (DATA,), MUNET_SPLITS, memory_limit=0)
    assert [len(s) for s in (task.train, task.validation, task.test)] == [4750, 250, 1000]


def test_a_private_task_is_marked_in_the_list_and_keeps_its_name():
    task = TaskSource((DATA,), memory_limit=0)("private:cmaterdb/telugu")
    assert task.private and task.name == "cmaterdb/telugu"


def test_a_source_keeps_the_tasks_it_was_asked_for_last(tmp_path, monkeypatch):
    label = tfds.features.ClassLabel(num_classes=3)
    rows = {"train": grey(40), "test": grey(9)}
    for name in ("made_up_first", "made_up_second"):
        made_up(name, tmp_path, {"image": GREY, "label": label}, rows)
    source = TaskSource((tmp_path,))
    first = source("made_up_first")
    second = source("made_up_second")
    assert source("made_up_first") is first and first.bytes_in_memory == 49 * 24
    monkeypatch.setattr("evolution.data.tasks.KEPT_BYTES", 2 * 49 * 24)
    source("private:made_up_first")  # a third
    assert source("made_up_first") is first and source("made_up_second") is not second


def test_a_source_makes_room_before_it_reads_another_task(tmp_path, monkeypatch):
    label = tfds.features.ClassLabel(num_classes=3)
    rows = {"train": grey(40), "test": grey(9)}
    for name in ("made_up_old", "made_up_new"):
        made_up(name, tmp_path, {"image": GREY, "label": label}, rows)
    monkeypatch.setattr("evolution.data.tasks.KEPT_BYTES", 49 * 24)
    source = TaskSource((tmp_path,))
    held = source("made_up_old").train
    assert isinstance(held, Split)
    old = weakref.ref(held.images)
    del held
    alive = []
    read = StreamedSplit.in_memory
    monkeypatch.setattr(
        StreamedSplit, "in_memory", lambda self: alive.append(old() is not None) or read(self)
    )
    new = source("made_up_new")
    assert alive == [False] * 3 and source("made_up_new") is new


def test_a_data_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(TaskError, match="munet experiments prepare mnist"):
        load("mnist", (DATA, tmp_path))
    with pytest.raises(TaskError, match="munet experiments prepare sun397/tfds"):
        load("sun397/1k", (DATA, tmp_path))


def test_a_data_set_of_another_format_says_how_to_use_it(tmp_path):
    shutil.copytree(DATA / "cmaterdb" / "telugu", tmp_path / "cmaterdb" / "telugu")
    info = tmp_path / "cmaterdb" / "telugu" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    told = r"(?s)prepared as tfrecord.*prepare cmaterdb/telugu.*munet data add .* tfds:"
    with pytest.raises(TaskError, match=told):
        load("cmaterdb/telugu", (tmp_path,))


@pytest.mark.parametrize("name", ["nonsuch", "cmaterdb/tamil", "mnist/1k"])
def test_an_unknown_data_set_is_named(name, tmp_path):
    with pytest.raises(TaskError, match=f"no TensorFlow data set is called '{name}'"):
        load(name, (tmp_path,))


@pytest.mark.parametrize("name", ["Mnist?", "", "cmaterdb/telugu:1.0.0"])
def test_a_name_that_the_store_would_refuse_is_refused_before_training(name):
    with pytest.raises(InvalidName):
        load(name, (DATA,))


def test_in_memory_and_streamed_are_the_same(tmp_path):
    label = tfds.features.ClassLabel(names=["x", "y", "z"])
    rows = {"train": grey(40), "test": grey(9)}
    made_up("made_up_grey", tmp_path, {"image": GREY, "label": label}, rows)
    memory = load("made_up_grey", (tmp_path,)).test
    streamed = load("made_up_grey", (tmp_path,), memory_limit=9 * 4 * 6 - 1).test
    assert isinstance(memory, Split) and isinstance(streamed, StreamedSplit)
    chosen = np.array([7, 0, 7, 3])
    originals = np.stack([rows["test"][row]["image"] for row in chosen])
    for split in (memory, streamed):
        assert len(split) == 9 and split.shape == (4, 6, 1)
        images, labels = split.training_images(chosen)
        np.testing.assert_array_equal(images, originals)
        assert labels.tolist() == [1, 0, 1, 0] and labels.dtype == np.int32
        inputs, labels = split.evaluation_inputs(chosen, 5)
        np.testing.assert_allclose(inputs, preprocess(originals, 5), atol=1e-6)
        assert inputs.dtype == np.float32 and labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("memory_limit", [0, 1 << 20])
def test_images_of_mixed_sizes_train_on_a_canvas_and_evaluate_as_they_are(tmp_path, memory_limit):
    sizes = [(4, 4), (10, 6), (5, 16)]
    images = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    examples = [{"image": image, "label": i} for i, image in enumerate(images)]
    label = tfds.features.ClassLabel(num_classes=3)
    made_up(
        f"made_up_mixed{memory_limit}",
        tmp_path,
        {"image": MIXED, "label": label},
        {"train": examples, "validation": examples, "test": examples},
    )
    task = load(f"made_up_mixed{memory_limit}", (tmp_path,), canvas=8, memory_limit=memory_limit)
    assert isinstance(task.train, Split if memory_limit else StreamedSplit)
    assert task.train.shape == (8, 8, 3)
    rows = np.array([2, 1, 0])
    pixels, labels = task.train.training_images(rows)
    assert pixels.shape == (3, 8, 8, 3) and labels.tolist() == [2, 1, 0]
    inputs, _ = task.train.evaluation_inputs(rows, 6)
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(inputs[position], preprocess(images[row], 6))
        # The canvas differs from the exact samples by rounding alone.
        exact = (preprocess(images[row], 8) + 1) * 127.5
        assert abs(pixels[position] - exact).max() <= 0.501


def test_more_examples_than_are_read_at_once_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("evolution.data.images.CHUNK", 16)
    monkeypatch.setattr("evolution.data.images.DECODE_THREADS", 3)
    label = tfds.features.ClassLabel(num_classes=3)
    rows = [{"image": np.full((4, 6, 1), i, np.uint8), "label": i % 3} for i in range(60)]
    made_up("made_up_many", tmp_path, {"image": GREY, "label": label}, {"train": rows})
    rule = SplitRule("train", "train", "train")
    train = load("made_up_many", (tmp_path,), {"*": rule}, memory_limit=0).train
    images, labels = train.training_images(np.arange(59, -1, -1))
    assert images[:, 0, 0, 0].tolist() == list(range(59, -1, -1))
    assert labels.tolist() == [i % 3 for i in range(59, -1, -1)]


def test_splits_are_put_together_and_another_data_set_validates(tmp_path):
    label = tfds.features.ClassLabel(names=["A", "B"])
    features = {"image": GREY, "label": label}
    a = [{**example, "label": "A"} for example in grey(20)]
    b = [{**example, "label": "B"} for example in grey(10)]
    halves = {"trainA": a, "trainB": b, "testA": a[:3], "testB": b[:2]}
    made_up("made_up_halves", tmp_path, features, halves)
    made_up("made_up_later", tmp_path, features, {"test": b[:4]})
    rule = SplitRule(
        "trainA[10%:]+trainB[10%:]", "test", "testA+testB", validation_dataset="made_up_later"
    )
    task = load("made_up_halves", (tmp_path,), rules={"made_up_*": rule})
    assert isinstance(task.train, Split) and isinstance(task.validation, Split)
    assert task.train.labels.tolist() == [0] * 18 + [1] * 9
    assert task.validation.labels.tolist() == [1] * 4
    assert len(task.test) == 5 and task.labels == ("A", "B")


def test_a_scene_is_labelled_by_its_objects(tmp_path, monkeypatch):
    objects = tfds.features.Sequence(
        {
            "type": tfds.features.ClassLabel(num_classes=8),
            "location": tfds.features.Tensor(shape=(3,), dtype=np.float32),
        }
    )

    def scene(*types):
        return [{"type": t, "location": [0.0, 0.0, 9.0]} for t in types]

    images = [example["image"] for example in grey(3)]
    scenes = [scene(), scene(0, 1, 7), scene(0, 1, 2, 2)]
    rows = [{"image": i, "objects": o} for i, o in zip(images, scenes, strict=True)]
    features = {"image": GREY, "objects": objects}
    made_up("made_up_scenes", tmp_path, features, dict.fromkeys(("train", "test"), rows))
    label = Label("objects", kitti_count_vehicles, ("0", "1", "2", "3 or more"))
    partition = vtab.Partition(("train", 0, 100), ("test", 0, 50), ("test", 50, 100))
    row = VtabTask("made_up_scenes", partition, label, pixel_scale=2)
    monkeypatch.setitem(vtab.VTAB_TASKS, "made_up_scenes/vehicles", row)  # type: ignore[arg-type]
    task = load("made_up_scenes/vehicles", (tmp_path,))
    assert isinstance(task.train, Split) and task.labels[3] == "3 or more"
    assert task.train.labels.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(task.train.images[1], np.minimum(rows[1]["image"], 127) * 2)
    assert (len(task.validation), len(task.test)) == (1, 2)
    thousand = load("made_up_scenes/vehicles/1k", (tmp_path,))
    assert thousand.name == "made_up_scenes/vehicles/1k" and len(thousand.train) == 3


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("made_up_unlabelled", {"label": -1}, r"example 3 of .*found -1 \(-1: unlabelled\)"),
        ("made_up_broken", {"image": io.BytesIO(b"no image")}, r"example 3 of .*prepare .* again"),
        ("made_up_odd", {"image": png(Image.new("L", (3, 3)))}, r"example 3 .*found \(3, 3, 1\)"),
    ],
)
def test_an_example_that_cannot_be_used_is_named(tmp_path, name, broken, message):
    rows = grey(6)
    rows[3] = {**rows[3], **broken}
    label = tfds.features.ClassLabel(num_classes=3)
    made_up(name, tmp_path, {"image": GREY, "label": label}, {"train": rows[:2] * 40, "test": rows})
    with pytest.raises(TaskError, match=message):
        load(name, (tmp_path,))
    streamed = load(name, (tmp_path,), memory_limit=0).test
    streamed.training_images(np.array([0, 1, 2, 4, 5]))
    with pytest.raises(TaskError, match=message):
        streamed.evaluation_inputs(np.array([2, 3]), 4)


def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path):
    label = tfds.features.ClassLabel(num_classes=3)
    rows = {"train": grey(100), "test": grey(20)}
    made_up("made_up_damaged", tmp_path, {"image": GREY, "label": label}, rows)
    (file,) = (tmp_path / "made_up_damaged" / "1.0.0").glob("*test.array_record*")
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes(300) + content[400:])
    with pytest.raises(TaskError, match=r"made_up_damaged test.*prepare the data set again"):
        load("made_up_damaged", (tmp_path,))


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        (
            "made_up_deep",
            {
                "image": tfds.features.Image(
                    shape=(4, 4, 1), dtype=np.uint16, encoding_format="png"
                ),
                "label": tfds.features.ClassLabel(num_classes=2),
            },
            "expected uint8 images of 1 or 3 channels, found .*uint16",
        ),
        (
            "made_up_transparent",
            {
                "image": tfds.features.Image(shape=(4, 4, 4)),
                "label": tfds.features.ClassLabel(num_classes=2),
            },
            r"expected uint8 images of 1 or 3 channels, found .*\(4, 4, 4\)",
        ),
        (
            "made_up_measured",
            {"image": GREY, "label": tfds.features.Scalar(dtype=np.float32)},
            "expected 'label' to be classes",
        ),
        (
            "made_up_named_otherwise",
            {"photo": GREY, "label": tfds.features.ClassLabel(num_classes=2)},
            "expected a feature 'image', found label, photo",
        ),
    ],
)
def test_data_that_make_no_task_are_refused(tmp_path, name, features, message):
    row = {"image": png(Image.new("L", (4, 4))), "label": 1}
    row = {"photo" if feature == "photo" else feature: row.get(feature, row["image"])
           for feature in features}  # fmt: skip
    made_up(name, tmp_path, features, {"train": [row], "validation": [row], "test": [row]})
    with pytest.raises(TaskError, match=message):
        load(name, (tmp_path,))


def test_a_split_without_examples_is_refused(tmp_path):
    label = tfds.features.ClassLabel(num_classes=3)
    made_up("made_up_few", tmp_path, {"image": GREY, "label": label}, {"train": grey(3)})
    with pytest.raises(
        TaskError, match=r"made_up_few: expected examples in split .train\[5%:10%\]"
    ):
        load("made_up_few", (tmp_path,))


def test_other_versions_and_doubtful_splits_are_said(tmp_path, monkeypatch, caplog):
    label = tfds.features.ClassLabel(num_classes=3)
    rows = {"train": grey(40), "test": grey(3)}
    made_up("made_up_newer", tmp_path, {"image": GREY, "label": label}, rows)
    monkeypatch.setitem(splits.VERSIONS, "made_up_newer", "0.*.*")  # type: ignore[arg-type]
    rule = SplitRule("train", "test", "test", caution="test is validation")
    with caplog.at_level(logging.WARNING, "evolution.data.tasks"):
        load("made_up_newer", (tmp_path,), rules={"made_up_newer": rule})
    said = [record.getMessage() for record in caplog.records]
    assert any("published=0.*.* found=1.0.0" in line for line in said)
    assert any("caution='test is validation'" in line for line in said)
