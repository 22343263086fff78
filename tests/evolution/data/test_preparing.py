"""Preparing data sets, and those that the tests have."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import DownloadManager
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.utils import Size

from evolution.data import preparing as module
from evolution.data.preparing import PreparationError, fill_cache, prepare
from evolution.data.splits import MU2NET_SPLITS, SplitRule
from evolution.data.vtab import OFFICIAL, VTAB_TASKS, VtabTask
from evolution.data.without_tensorflow import TENSORFLOW, encode_png, missing_part
from tests.data import DATA
from tests.evolution.roots.serving import Served, serving

URL = "https://example.invalid/raw/files/"

# Of the sorted records (image bytes, label byte) of each split; computed from the raw .npz files.
DIGESTS = {
    ("bangla", "train", 5000): "7c9821a6cd2f142926642e4cb38b50790e15995cf952bdd6833b75167147ac20",
    ("bangla", "test", 1000): "18d228b174aa08ba5ca1a2b620b368dc849cb455a5a957bce40326ce9b14799c",
    ("devanagari", "train", 2500): (
        "b55541ceeb701d8b41ebc7681967586d5a58676d439599515b12dd0ab50c534a"
    ),
    ("devanagari", "test", 500): "e40976fec75c432fcf39aec3181666f7272f9038f1b91c191c434107d9809330",
    ("telugu", "train", 2500): "e29637d539d54a2f9eda4ad529975a484cf08aa85aa245a5e9d6797259bf61b0",
    ("telugu", "test", 500): "eb63a716663f061996d6258b40c9edab028dd7e0bc08a80b94055102e94cd629",
}

without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None,
    reason="shows what happens where TensorFlow is not installed",
)


def data_source(name: str, split: str, data_dir: Path) -> Any:
    """A prepared split, example by example."""
    return tfds.builder(name, data_dir=data_dir).as_data_source(split)  # pyright: ignore[reportCallIssue]


def digest_of(source: Any) -> str:
    """The order-free digest of a split's images and labels."""
    records = sorted(example["image"].tobytes() + bytes([example["label"]]) for example in source)
    return hashlib.sha256(b"".join(records)).hexdigest()


@pytest.mark.parametrize(("config", "split", "count"), DIGESTS)
def test_the_data_are_the_published_images(config: str, split: str, count: int) -> None:
    source = data_source(f"cmaterdb/{config}", split, DATA)
    examples = [source[i] for i in range(len(source))]
    assert len(examples) == count
    for example in examples:
        assert example["image"].shape == (32, 32, 3) and example["image"].dtype == np.uint8
    labels = [int(example["label"]) for example in examples]
    assert np.bincount(labels).tolist() == [count // 10] * 10
    assert digest_of(examples) == DIGESTS[config, split, count]


def test_the_data_name_no_place_of_the_machine_that_built_them() -> None:
    files = [path for path in DATA.rglob("*.json") if path.is_file()]
    assert len(files) == 7
    for path in files:
        for value in leaves(json.loads(path.read_text())):
            assert not value.startswith(("/", "~", "file:")) and "\\Users" not in value, path


def leaves(tree: Any) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(tree, dict):
        return leaves(list(tree.values()))
    if isinstance(tree, list):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree] if isinstance(tree, str) else []


def test_the_data_read_without_tensorflow() -> None:
    code = (
        "import sys\n"
        "import tensorflow_datasets as tfds\n"
        f"builder = tfds.builder('cmaterdb/telugu', data_dir={str(DATA)!r})\n"
        "image = builder.as_data_source('test')[499]['image']\n"
        "sys.exit(image.shape != (32, 32, 3) or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_prepared_is_left_alone() -> None:
    assert prepare("cmaterdb/bangla", DATA) == DATA / "cmaterdb" / "bangla" / "1.0.0"


def test_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"(?s)preparing cmaterdb/tamil .*correct the name"):
        prepare("cmaterdb/tamil", tmp_path)


def test_prepared_in_another_format(tmp_path: Path) -> None:
    there = tmp_path / "cmaterdb" / "telugu"
    shutil.copytree(DATA / "cmaterdb" / "telugu", there)
    info = there / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(PreparationError, match=r"(?s)TFRECORD.*choose a data_dir"):
        prepare("cmaterdb/telugu", tmp_path)


def registered(**files: bytes) -> Any:
    """The two attributes of a builder that name its downloads."""
    infos = {
        URL + name.replace("_", "."): UrlInfo(
            size=Size(len(content)),
            checksum=hashlib.sha256(content).hexdigest(),
            filename=name.replace("_", "."),
        )
        for name, content in files.items()
    }
    return SimpleNamespace(name="made_up", url_infos=infos)


def manager(downloads: Path, builder: Any) -> DownloadManager:
    """TFDS' own download manager, as a builder would call it."""
    return DownloadManager(
        download_dir=downloads, dataset_name=builder.name, url_infos=builder.url_infos
    )


def test_tfds_takes_a_filled_file_for_downloaded(tmp_path: Path) -> None:
    builder = registered(a_txt=b"alpha")
    (tmp_path / "raw" / "files").mkdir(parents=True)
    (tmp_path / "raw" / "files" / "a.txt").write_bytes(b"alpha")
    fill_cache(tmp_path / "downloads", builder, tmp_path / "raw", "files/a.txt")
    found = manager(tmp_path / "downloads", builder).download(f"{URL}a.txt")
    assert Path(found).read_bytes() == b"alpha"


def test_tfds_takes_filled_members_for_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = registered(a_zip=b"the archive itself is not at hand")
    (tmp_path / "one").write_bytes(b"1")
    with tarfile.open(tmp_path / "a.members.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "one", arcname="folder/one")
    digest = hashlib.sha256((tmp_path / "a.members.tar.xz").read_bytes()).hexdigest()
    monkeypatch.setitem(module.MEMBERS, "a.zip", {"a": digest})
    fill_cache(tmp_path / "downloads", builder, tmp_path, "a.zip")
    found = manager(tmp_path / "downloads", builder).download_and_extract(f"{URL}a.zip")
    assert [str(p.relative_to(found)) for p in Path(found).rglob("*") if p.is_file()] == [
        "folder/one"
    ]
    assert (Path(found) / "folder" / "one").read_bytes() == b"1"

    monkeypatch.setitem(module.MEMBERS, "a.zip", {"a": "0" * 64})
    with pytest.raises(PreparationError, match=rf"expected sha256 0{{64}}, found {digest}"):
        fill_cache(tmp_path / "other", builder, tmp_path, "a.zip")


def test_a_wrong_or_missing_raw_file_is_refused(tmp_path: Path) -> None:
    builder = registered(a_txt=b"alpha")
    with pytest.raises(
        PreparationError, match=r"expected at .*a\.txt \(sha256 \w{64}\), found none"
    ):
        fill_cache(tmp_path / "downloads", builder, tmp_path, "a.txt")
    (tmp_path / "a.txt").write_bytes(b"beta")
    with pytest.raises(PreparationError, match=r"a\.txt: expected sha256 8ed3\w+, found f44e"):
        fill_cache(tmp_path / "downloads", builder, tmp_path, "a.txt")
    assert not [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()]
    with pytest.raises(PreparationError, match=r"a download ending in b\.txt, found none"):
        fill_cache(tmp_path / "downloads", builder, tmp_path, "b.txt")


def test_every_known_raw_file_is_registered_with_tfds(tmp_path: Path) -> None:
    for name, entries in module.RAW_FILES.items():
        urls = tfds.builder(name, data_dir=tmp_path).url_infos or {}
        for entry in entries:
            assert sum(url.endswith(f"/{entry}") for url in urls) == 1, (name, entry)
    known = {entry for entries in module.RAW_FILES.values() for entry in entries}
    assert set(module.MEMBERS) <= known


def made_up_digits(fail_at: list[int]) -> type[tfds.core.GeneratorBasedBuilder]:
    """Registers with TFDS a data set of 20 images, made from one raw file.

    Its generator is interrupted at the examples that `fail_at` lists.
    """

    class MadeUpDigits(tfds.core.GeneratorBasedBuilder):
        """Images whose pixels all are the image's number."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos = registered(raw_npy=raw_content()).url_infos

        def _info(self) -> tfds.core.DatasetInfo:
            image = tfds.features.Image(shape=(4, 4, 3))
            label = tfds.features.ClassLabel(num_classes=20)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(dl_manager.download(f"{URL}raw.npy"))}

        def _generate_examples(self, path: Path) -> Any:
            for number, image in enumerate(np.load(path)):
                if number in fail_at:
                    raise KeyboardInterrupt
                yield number, {"image": image, "label": number}

    return MadeUpDigits


def raw_content() -> bytes:
    """The raw file of the made-up data set: a .npy file."""
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1) * np.ones((4, 4, 3), np.uint8)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (20, 4, 4, 3), }"
    padding = b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + header + padding + images.tobytes()


def test_prepares_from_a_folder_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at = [10]
    made_up_digits(fail_at)
    monkeypatch.setitem(module.RAW_FILES, "made_up_digits", ("raw.npy",))
    raw = tmp_path / "raw" / "made_up_digits" / "raw.npy"
    raw.parent.mkdir(parents=True)
    raw.write_bytes(raw_content())
    data_dir = tmp_path / "prepared"
    with pytest.raises(KeyboardInterrupt):
        prepare("made_up_digits", data_dir, tmp_path / "raw")
    assert not list(data_dir.rglob("dataset_info.json"))
    assert not list(data_dir.glob("incomplete.*"))

    fail_at.clear()
    folder = prepare("made_up_digits", data_dir, tmp_path / "raw")
    assert folder == data_dir / "made_up_digits" / "1.0.0"
    source = data_source("made_up_digits", "train", data_dir)
    assert sorted(int(example["label"]) for example in source) == list(range(20))
    assert all((example["image"] == example["label"]).all() for example in source)
    assert [path.name for path in data_dir.iterdir()] == ["made_up_digits"]


def test_a_source_for_an_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"cifar10 from .*known only of .*cmaterdb/bangla"):
        prepare("cifar10", tmp_path, tmp_path)


def test_files_to_fetch_by_hand_are_said_where_to_put(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"by hand into .*downloads/manual.*ILSVRC2012"):
        prepare("imagenet2012", tmp_path)
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    with pytest.raises(PreparationError, match=r"(?s)by hand into .*downloads/manual.*Found: "):
        prepare("imagenet2012", tmp_path)
    assert not list(tmp_path.rglob("dataset_info.json"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clevr/count_all", ("clevr",)),
        ("dtd/1k", ("dtd",)),
        ("cifar10/1k", ("cifar10",)),
        ("cifar10", ("cifar10", "cifar10_1/v6")),
        ("imagenet2012", ("imagenet2012", "imagenet_v2")),
    ],
)
def test_a_task_needs_its_data_set_and_the_one_that_validates(
    name: str, expected: tuple[str, ...]
) -> None:
    assert module.data_sets(name) == expected


def test_names_of_tasks_prepare_their_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = VtabTask("cmaterdb/bangla", OFFICIAL)
    monkeypatch.setitem(VTAB_TASKS, "digits/count", row)  # type: ignore[arg-type]
    assert prepare("digits/count/1k", DATA) == DATA / "cmaterdb" / "bangla" / "1.0.0"
    rule = SplitRule("train", "test", "test", validation_dataset="cmaterdb/nonsuch")
    monkeypatch.setitem(MU2NET_SPLITS, "cmaterdb/*", rule)  # type: ignore[arg-type]
    with pytest.raises(PreparationError, match="preparing cmaterdb/nonsuch"):
        prepare("cmaterdb/telugu", DATA)


def test_a_file_that_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    with serving(Served(content=b"not the one registered", statuses=[404])) as served:

        class MadeUpOnline(tfds.core.GeneratorBasedBuilder):
            """Made from a file of another digest than TFDS registers."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> tfds.core.DatasetInfo:
                return tfds.core.DatasetInfo(builder=self)

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {"train": self._generate_examples(dl_manager.download(served.url))}

            def _generate_examples(self, path: Path) -> Any:
                yield from ()

        MadeUpOnline.url_infos = {served.url: UrlInfo(Size(7), "0" * 64, filename="raw.npy")}
        for failure in ("404", "wrong checksum"):
            with pytest.raises(PreparationError, match="preparing made_up_online") as caught:
                prepare("made_up_online", tmp_path)
            for part in (served.url, failure, f"by hand into {tmp_path / 'downloads' / 'manual'}"):
                assert part in str(caught.value)
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_the_published_version_is_prepared(tmp_path: Path) -> None:
    builder = module._builder("kitti", tmp_path)
    assert str(builder.version) == "3.2.0"  # TFDS' own is later
    assert module._builder("oxford_iiit_pet", tmp_path).version > "3.0.0"  # no longer buildable


@without_tensorflow
def test_a_builder_that_needs_more_of_tensorflow_says_what(tmp_path: Path) -> None:
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as tf

    class MadeUpWords(tfds.core.GeneratorBasedBuilder):
        """Its images are drawn by TensorFlow."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 3))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            yield 0, {"image": tf.image.resize(np.zeros((2, 2, 3)), (4, 4))}

    with pytest.raises(PreparationError, match=r"needs tf\.image of TensorFlow.*tensorflow-cpu"):
        prepare("made_up_words", tmp_path)
    assert not list(tmp_path.rglob("dataset_info.json"))


@without_tensorflow
def test_stand_ins_are_gone_after_a_preparation(tmp_path: Path) -> None:
    from tensorflow_datasets.core.utils import lazy_imports_utils

    with pytest.raises(PreparationError), module._tensorflow_or_stand_in("made_up"):
        assert lazy_imports_utils.tensorflow.io.gfile.exists(tmp_path)
        _ = lazy_imports_utils.tensorflow.io.gfile.rename
    assert "tensorflow" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        _ = lazy_imports_utils.tensorflow.io


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_pixel(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(encode_png(image))))
    np.testing.assert_array_equal(decoded.reshape(image.shape), image)


def test_stood_in_files_read_like_those_of_tensorflow(tmp_path: Path) -> None:
    gfile = TENSORFLOW.io.gfile
    (tmp_path / "b").mkdir()
    for name in ("b/two.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    with gfile.GFile(tmp_path / "a.txt", "rb") as file:
        pass
    assert file.read() == b"a.txt"  # builders read after the `with`
    with gfile.GFile(str(tmp_path / "b" / "two.txt")) as file:
        assert file.read() == "b/two.txt"
    assert gfile.listdir(tmp_path) == ["a.txt", "b"]
    assert gfile.glob(tmp_path / "*") == [str(tmp_path / "a.txt"), str(tmp_path / "b")]
    assert gfile.isdir(tmp_path / "b") and not gfile.exists(tmp_path / "c")
    assert list(gfile.walk(str(tmp_path))) == [
        (str(tmp_path), ["b"], ["a.txt"]),
        (str(tmp_path / "b"), [], ["two.txt"]),
    ]


def test_a_missing_part_is_found_behind_the_errors_that_wrap_it() -> None:
    with pytest.raises(ValueError) as caught:
        try:
            _ = TENSORFLOW.strings
        except AttributeError as error:
            raise ValueError("wrapped") from error
    assert missing_part(caught.value) == "tf.strings"
    assert missing_part(ValueError("of another cause")) is None
