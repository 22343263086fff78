"""Prepares a TensorFlow Datasets (TFDS) data set as array_record, which reads without TensorFlow.

Raw files are downloaded by TFDS, or taken from a folder. TensorFlow is used where it is installed;
without it, builders that need only its file access and PNG encoding work too.

    PreparationError    names what is missing or different, and what to do
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolution.data.splits import MU2NET_SPLITS, published_version, split_rule
from evolution.data.vtab import vtab_task
from evolution.data.without_tensorflow import TENSORFLOW, encode_png, missing_part

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.download.checksums import UrlInfo

logger = logging.getLogger(__name__)

_LONGEST_TOLD = 200  # characters of what TFDS says

UNKNOWN = (
    ValueError,
    AssertionError,
)  # what TFDS raises for data sets and versions it does not have

# The downloads of each data set that can be taken from a folder: <source>/<builder>/<entry>. An
# entry is also the end of the URL under which TFDS registers the file's sha256.
RAW_FILES = {
    "binary_alpha_digits": ("binaryalphadigs.mat",),
    **{
        f"cmaterdb/{script}": (
            f"{script}-numerals/training-images.npz",
            f"{script}-numerals/testing-images.npz",
        )
        for script in ("bangla", "devanagari", "telugu")
    },
    "eurosat/rgb": ("EuroSAT.zip",),
    "mnist": (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ),
    "omniglot": (
        "images_background.zip",
        "images_background_small1.zip",
        "images_background_small2.zip",
        "images_evaluation.zip",
    ),
}

# Archives that the folder may hold as members instead, <name>.members.tar.xz with these digests:
# the archive is not always available, and TFDS registers no digest of its contents.
MEMBERS = {
    "EuroSAT.zip": {
        "AnnualCrop": "c43133ab6b1c3e31de4ef12a64682191c88f9214314c2fb35267edc34ae91719",
        "Forest": "de603b1bf14cd55ea15eb9db515da05007b0c3a4b388d4c8e4ae3100e6a178ab",
        "HerbaceousVegetation": "bf6548fdd36086cbc3bea7fee089405742dddbfb5500532dd0efc40c492fc6d7",
        "Highway": "e986683b5b9aac9d0709bd49e1867eb020c9a6de95d95f4a89cd157d42b5bacf",
        "Industrial": "12bb1a723e88161bab6de095b7efc05ed730f05e62686c5be438d59e924be5fc",
        "Pasture": "a66d3edb6860f1d1fa34b408eeb694843848d8381e8f325b9703d182dff11d51",
        "PermanentCrop": "c5d3fc8c94b6ae170fe70d418635012b90fdf02c3e23e37e34aa03998aeed7dc",
        "Residential": "5237563272308a45fabf1193ef5b8ede6491ebac0cabb2fcdb92eccb5fe851a7",
        "River": "30ff8970dbd06a4f884420e4074dcf652d5ddb181bd85d70cc9e30d8ece52aca",
        "SeaLake": "340441216a5dd8e1075a48d4f59f0a553c368436056ebef8829f64879b4361c2",
    },
    "images_background.zip": {
        "images_background": "9f656f9aab5d05cbaa1e2851e0b161efc8616785df6f54e28474bc85e1b2ffef",
    },
    "images_evaluation.zip": {
        "images_evaluation": "bde5cb21e977f2e0277c3404fdbbf69855ec0eea845afc4fc7f85300e4785c7a",
    },
}


class PreparationError(Exception):
    """A data set that cannot be prepared: the message says why and what to do."""


def prepare(name: str, data_dir: Path, source: Path | None = None) -> Path:
    """Prepares what a task needs under `data_dir`; returns the folder of its data set.

    `name` is a TFDS or VTAB name; a data set that validates the task is prepared too. The version
    is that of published systems, if TFDS still builds it. With `source`, raw files are taken from
    <source>/<builder>/... and nothing is downloaded. What is already there as array_record is left
    as it is. An interrupted preparation leaves nothing that reads as a data set. Raises
    PreparationError.
    """
    data_dir = data_dir.expanduser()
    data_dir.mkdir(parents=True, exist_ok=True)
    folder, *_ = [_prepare(dataset, data_dir, source) for dataset in data_sets(name)]
    return folder


def data_sets(name: str) -> tuple[str, ...]:
    """The TFDS data sets that a task is made of: its own, and the one that validates it, if any."""
    if vtab := vtab_task(name):
        return (vtab.dataset,)
    validating = split_rule(name, MU2NET_SPLITS, ()).validation_dataset
    return (name, validating) if validating else (name,)


def _prepare(name: str, data_dir: Path, source: Path | None) -> Path:
    builder = _builder(name, data_dir)
    folder = Path(builder.data_path)
    if not folder.exists():
        _check_preparable(name, builder, data_dir, source)
        with _tensorflow_or_stand_in(name), _failures_told(name, builder, data_dir):
            if source is None:
                builder.download_and_prepare()
            else:
                _prepare_from(name, builder, data_dir, source)
    logger.info("event=prepared dataset=%s folder=%s", name, folder)
    return folder


def prepared_by(builder_class: Callable[..., DatasetBuilder], data_dir: Path) -> DatasetBuilder:
    """Runs a user's own builder, which writes below the new folder `data_dir`; it reads there.

    Files to fetch by hand are looked for below TFDS_DATA_DIR. Raises PreparationError.
    """
    data_dir.mkdir()
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    by_hand = default_data_dir() if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else data_dir
    with (
        _tensorflow_or_stand_in(builder.name),
        _failures_told(builder.name, builder, by_hand),
    ):
        builder.download_and_prepare(download_dir=by_hand / "downloads")
    return builder


def default_data_dir() -> Path:
    """TFDS' own place for prepared data sets (environment variable TFDS_DATA_DIR)."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def builders(name: str, data_dir: Path, **wanted: Any) -> Iterator[DatasetBuilder]:
    """The builder of the version that published systems used, if TFDS knows it, then TFDS' own.

    `wanted` goes to tfds.builder. Raises one of UNKNOWN where TFDS has no such data set.
    """
    import tensorflow_datasets as tfds

    if version := published_version(name):
        # TFDS builds few old versions, but reads what was prepared when it still did.
        try:
            published = tfds.builder(f"{name}:{version}", data_dir=data_dir, **wanted)
        except UNKNOWN as error:
            logger.debug("event=no_such_version dataset=%s why=%s", name, error)
        else:
            yield published
    yield tfds.builder(name, data_dir=data_dir, **wanted)


def unknown_told(name: str, error: Exception) -> str:
    """Why TFDS has no such data set, on one line, and the nearest names; TFDS lists them all."""
    import tensorflow_datasets as tfds

    why = re.sub(r"^Failed to construct dataset [^{]*\{.*?\}\"?: *", "", str(error).strip())
    first = next(iter(why.splitlines()), "") or type(error).__name__
    near = get_close_matches(
        name.partition("/")[0], tfds.list_builders(with_community_datasets=False), n=3
    )
    told = first if len(first) <= _LONGEST_TOLD else f"{first[:_LONGEST_TOLD]}…"
    return f"{told} Did you mean {', '.join(near)}?" if near else told


def warn_of_version(name: str, builder: DatasetBuilder) -> None:
    """Logs if a builder's version is not the published one: TFDS no longer builds some of them."""
    published = published_version(name)
    if published and not fnmatchcase(str(builder.version), published):
        logger.warning(
            "event=other_version dataset=%s published=%s found=%s consequence=%r",
            name, published, builder.version,
            "images or their order may differ from those of published results",
        )  # fmt: skip


def _builder(name: str, data_dir: Path) -> DatasetBuilder:
    try:
        builder = next(builders(name, data_dir, file_format="array_record"))
    except UNKNOWN as error:  # no such data set, or there already in another format
        raise PreparationError(
            f"preparing {name} as array_record under {data_dir}: {unknown_told(name, error)}\n"
            "correct the name, or choose a data_dir that does not hold it yet"
        ) from None
    warn_of_version(name, builder)
    return builder


def _check_preparable(
    name: str, builder: DatasetBuilder, data_dir: Path, source: Path | None
) -> None:
    if source is not None and name not in RAW_FILES:
        raise PreparationError(
            f"preparing {name} from {source}: raw files are known only of "
            f"{', '.join(sorted(RAW_FILES))}; without a source TFDS downloads it"
        )
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not _manual_dir(data_dir).is_dir():
        raise PreparationError(_by_hand(name, builder, data_dir))


def _manual_dir(data_dir: Path) -> Path:
    return data_dir / "downloads" / "manual"


def _by_hand(name: str, builder: DatasetBuilder, data_dir: Path) -> str:
    instructions = (builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").strip()
    return (
        f"preparing {name}: its files must be fetched by hand into {_manual_dir(data_dir)}, and "
        f"then this command repeated. TFDS says: {instructions}"
    )


@contextmanager
def _failures_told(name: str, builder: DatasetBuilder, data_dir: Path) -> Iterator[None]:
    """TFDS' failures to fetch files say which data set they are of, and where files may be laid."""
    from tensorflow_datasets.core.download import download_manager, extractor, util

    try:
        yield
    except (
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
        extractor.UnsafeArchiveError,
    ) as error:
        raise PreparationError(
            f"preparing {name}: {error}; try again, or fetch the file by hand into "
            f"{_manual_dir(data_dir)} and repeat this command"
        ) from error
    except (AssertionError, OSError, ValueError) as error:  # what builders raise differs
        if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise
        raise PreparationError(f"{_by_hand(name, builder, data_dir)}\nFound: {error}") from error


@contextmanager
def _tensorflow_or_stand_in(name: str) -> Iterator[None]:
    """TFDS works here: with TensorFlow, or with stand-ins for the two things it mostly needs."""
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.core.utils import lazy_imports_utils

    encoder: Any = image_feature._ImageEncoder
    encode_with_tensorflow = encoder._encode_image

    def encode(self: Any, image: Any) -> bytes:
        if self.encoding_format == "png" and image.dtype == "uint8":
            return encode_png(image)
        return encode_with_tensorflow(self, image)

    # TFDS imports TensorFlow when it first reads an attribute of this object, and keeps it there.
    # sys.modules stays without it: TFDS takes its own ways without TensorFlow where it has them.
    lazy: Any = vars(lazy_imports_utils.tensorflow)
    lazy["_module"], encoder._encode_image = TENSORFLOW, encode
    try:
        yield
    except Exception as error:
        if missing := missing_part(error):
            raise PreparationError(
                f"preparing {name} needs {missing} of TensorFlow, which is not installed here "
                "(reading a prepared data set does not): install the extra `prepare`, or "
                "tensorflow-cpu"
            ) from error
        raise
    finally:
        encoder._encode_image = encode_with_tensorflow
        del lazy["_module"]


def _prepare_from(name: str, builder: DatasetBuilder, data_dir: Path, source: Path) -> None:
    # The cache lives only as long as the preparation: where it holds members in place of an
    # archive, no later use of TFDS may take it for a genuine download.
    with tempfile.TemporaryDirectory(prefix="incomplete.downloads.", dir=data_dir) as downloads:
        for entry in RAW_FILES[name]:
            fill_cache(Path(downloads), builder, source.expanduser() / builder.name, entry)
        builder.download_and_prepare(download_dir=downloads)


def fill_cache(downloads: Path, builder: DatasetBuilder, folder: Path, entry: str) -> None:
    """Lays the raw file `entry` of `folder` into TFDS' download cache, as if downloaded.

    Where the file is missing but its members are there, they are laid where TFDS extracts to.
    Raises PreparationError if a file is missing or is not the one that is registered.
    """
    from etils import epath
    from tensorflow_datasets.core.download import resource

    url, info = _registered(builder, entry)
    cached = downloads / builder.name / resource.get_dl_fname(url, info.checksum)
    cached.parent.mkdir(parents=True, exist_ok=True)
    if (folder / entry).exists() or entry not in MEMBERS:
        _check_digest(folder / entry, info.checksum)
        shutil.copyfile(folder / entry, cached)
    else:
        # TFDS opens no archive whose extraction exists: this stands in for the archive.
        cached.write_text(f"the members of {entry} were extracted without it\n")
        method = resource.guess_extract_method(entry).name
        _extract_members(folder, entry, downloads / "extracted" / f"{method}.{cached.name}")
    resource.write_info_file(
        url=url,
        path=epath.Path(cached),
        dataset_name=builder.name,
        original_fname=os.path.basename(entry),
        url_info=info,
    )


def _registered(builder: DatasetBuilder, entry: str) -> tuple[str, UrlInfo]:
    for url, info in (builder.url_infos or {}).items():
        if url.endswith(f"/{entry}"):
            return url, info
    raise PreparationError(
        f"preparing {builder.name}: expected TFDS to register a download ending in {entry}, found "
        "none; its builder has changed, and RAW_FILES must follow it"
    )


def _check_digest(path: Path, expected: str) -> None:
    if not path.exists():
        raise PreparationError(f"raw file expected at {path} (sha256 {expected}), found none")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise PreparationError(
            f"raw file {path}: expected sha256 {expected}, found {found}; fetch it again"
        )


def _extract_members(folder: Path, entry: str, target: Path) -> None:
    for name, digest in MEMBERS[entry].items():
        archive = folder / f"{name}.members.tar.xz"
        _check_digest(archive, digest)
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
