"""What the shipped root is trained on, and with which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolution.data.eurosat import satellite_pictures
from evolution.data.images import Labels
from evolution.data.omniglot import omniglot
from evolution.roots.descriptors import SCALES, describe, fit, principal
from evolution.roots.drawn import draw_pictures

SIDE = 64  # of all images, pixels
CODEBOOK_PICTURES = 3000
Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training, with a learning rate that rises and falls."""

    steps: int
    satellite: int  # pictures of each kind in a batch
    drawn: int
    characters: int
    character_weight: float  # of the loss; that of descriptors is 1
    learning_rate: float
    sizes: tuple[int, ...] = (32, 48, 64)  # of the images, pixels
    size_shares: tuple[float, ...] = (0.5, 0.3, 0.2)  # of the batches
    warmup: int = 200  # steps


@dataclass(frozen=True, slots=True)
class RootTraining:
    """How the shipped root is trained; about 45 minutes on 2 cores."""

    # Characters are learned slowly at first, so most of the first stage is theirs.
    stages: tuple[Stage, ...] = (
        Stage(
            steps=2500, satellite=16, drawn=8, characters=232, character_weight=1.0,
            learning_rate=1.5e-3, sizes=(32,), size_shares=(1.0,),
        ),
        Stage(
            steps=4300, satellite=64, drawn=16, characters=64, character_weight=0.3,
            learning_rate=1e-3,
        ),
    )  # fmt: skip
    drawn_pictures: int = 15_000
    descriptors: int = 256  # principal components that are predicted
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


class Sources(NamedTuple):
    """Images to train on, and what is to be learned of them."""

    satellite: Images  # [n, side, side, 3]
    drawn: Images  # [n, side, side, 3]
    targets: NDArray[np.float32]  # [satellite + drawn, descriptors]
    characters: Images  # [n, side, side, 1], ink 0
    labels: Labels  # [characters]


def root_sources(data_dir: Path, training: RootTraining, work: Path) -> Sources:
    """Takes minutes, but for descriptors that the folder `work` has. Raises TaskError."""
    satellite = satellite_pictures(data_dir)
    drawn = draw_pictures(training.seed, training.drawn_pictures, SIDE)
    characters, labels = omniglot(data_dir, SIDE)
    work.mkdir(exist_ok=True)
    kept = work / "targets.npy"
    if not kept.exists():
        part = work / "part.npy"
        np.save(part, targets_of(satellite, drawn, training))
        part.replace(kept)
    return Sources(satellite, drawn, np.load(kept), characters, labels)


def targets_of(satellite: Images, drawn: Images, training: RootTraining) -> NDArray[np.float32]:
    """What is to be predicted of each picture: [satellite + drawn, descriptors]."""
    rng = np.random.default_rng(training.seed)
    some = rng.choice(len(satellite), min(CODEBOOK_PICTURES, len(satellite)), replace=False)
    codebooks = tuple(fit(satellite[some], scale, training.seed) for scale in SCALES)
    found = np.concatenate([describe(pictures, codebooks) for pictures in (satellite, drawn)])
    return principal(found, training.descriptors)
