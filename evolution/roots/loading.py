"""Where a system starts: random components, the small trained root that ships, published weights.

The shipped root is a Ti/8 with 3 blocks for 32 to 64 px (`munet experiments root` trains it again:
training.py). It was trained on satellite pictures without their labels, on drawn pictures and on
the characters of Omniglot (EuroSAT and Omniglot: MIT licence). It has never seen a numeral.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from evolution.population import POSITION_SOURCE
from evolution.roots.download import DownloadError, digest_of, download
from model_store.tensors import decode
from vit import Architecture
from vit.components import Tree, init, position_embedding_for
from vit.pretrained import PretrainedError, Root, read_augreg, read_hf

Components = dict[str, Tree]
CACHE = Path("~/.cache/munet/roots")  # of downloads
SHIPPED = Path(__file__).with_name("shipped_ti8.safetensors")
SHIPPED_ARCHITECTURE = Architecture.named(
    "Ti", patch_size=8, image_size=64, num_layers=3, num_classes=1
)


class RootError(ValueError):
    """A root that does not exist or does not fit."""


def load_root(spec: str, image_size: int, num_layers: int, cache: Path | None = None) -> Root:
    """The root that `spec` names: an architecture of one class, and its components by name.

    `random:Ti/16` (any size / patch) · `shipped` · `augreg:FILE_OR_URL[#sha256=HEX]` ·
    `hf:DIRECTORY` (Hugging Face or timm). Position embeddings are resampled to `image_size`. The
    head, and what the file lacks, is new. After the components of the architecture, in forward
    order, come those that paths may grow into: the file's further blocks (SYSTEMS.md, Network) and,
    as POSITION_SOURCE, its own position embeddings if they were resampled. Downloads are kept in
    `cache`, by default ~/.cache/munet/roots. Raises RootError.
    """
    published = read_root(spec, cache)
    try:
        return fitted(*published, image_size, num_layers)
    except ValueError as error:
        raise RootError(f"root {spec!r}: {error}") from error


def read_root(spec: str, cache: Path | None = None) -> Root:
    """The root that `spec` names as it was published, with all components of its file.

    Raises RootError.
    """
    kind, _, rest = spec.partition(":")
    try:
        if kind not in KINDS:
            raise RootError(f"expected a kind of {', '.join(KINDS)}, found {kind!r}")
        return KINDS[kind](rest, (cache or CACHE).expanduser())
    except (ValueError, DownloadError) as error:
        raise RootError(f"root {spec!r}: {error}") from error


def fitted(published: Architecture, components: Components, size: int, layers: int) -> Root:
    """A root for images of `size` with `layers` blocks. Raises ValueError."""
    # A random root holds no components: all are new.
    if components and layers > published.num_layers:
        raise RootError(f"expected {layers} blocks or more, found {published.num_layers}")
    arch = replace(published, image_size=size, num_layers=layers, num_classes=1)
    if components:
        stored = components["posembed_input"]
        resampled = position_embedding_for(arch, stored)
        components = {**components, "posembed_input": resampled}
        if resampled["pos_embedding"].shape != stored["pos_embedding"].shape:
            components[POSITION_SOURCE] = stored
    used = {
        name: components[name] if name in components else init(arch, name)
        for name in arch.component_names
    }
    return arch, {**used, **components}  # what is not used comes last


def _random(name: str, cache: Path) -> Root:
    size, _, patch = name.partition("/")
    if not re.fullmatch(r"[1-9]\d{0,3}", patch):
        raise RootError(f"expected SIZE/PATCH, as Ti/16, found {name!r}")
    patch_size = int(patch)
    return Architecture.named(
        size, patch_size=patch_size, image_size=patch_size, num_layers=0, num_classes=1
    ), {}


def _shipped(rest: str, cache: Path) -> Root:
    if rest:
        raise RootError(f"expected nothing after `shipped`, found {rest!r}")
    stored: Any = decode(SHIPPED.read_bytes())  # a tree of components, by name
    return SHIPPED_ARCHITECTURE, jax.tree.map(lambda x: np.asarray(x, np.float32), stored)


def _augreg(place: str, cache: Path) -> Root:
    place, marker, sha256 = place.partition("#sha256=")
    if marker and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise RootError(f"expected 64 hexadecimal digits after #sha256=, found {sha256!r}")
    if re.match(r"\w+://", place):
        return _downloaded(place, cache, sha256)
    path = Path(place).expanduser()
    if sha256 and path.exists() and digest_of(path) != sha256.lower():
        raise RootError(f"expected sha256 {sha256.lower()}, found {digest_of(path)}")
    return read_augreg(path)


def _downloaded(url: str, cache: Path, sha256: str) -> Root:
    path = download(url, cache, sha256 or None)
    try:
        return read_augreg(path)
    except PretrainedError as error:
        if sha256:  # it is the right file, so fetching it again changes nothing
            raise
        path.unlink(missing_ok=True)
        raise RootError(
            f"{error}; deleted the download, it is fetched again at the next start"
        ) from error


def _hf(directory: str, cache: Path) -> Root:
    return read_hf(Path(directory).expanduser())


# Kind of root -> what reads it, from the text after the colon and the cache of downloads.
KINDS: dict[str, Callable[[str, Path], Root]] = {
    "random": _random,
    "shipped": _shipped,
    "augreg": _augreg,
    "hf": _hf,
}


def random_root(arch: Architecture) -> Components:
    """New components of a root, by name."""
    return {name: init(arch, name) for name in arch.component_names}
