"""The tasks of an experiment, from data sets that are prepared on this machine."""

from __future__ import annotations

from evolution.experiments import Experiment
from evolution.splits import MU2NET_SPLITS, MUNET_SPLITS
from evolution.tasks import CANVAS, TaskSource

SPLITS = {"munet": MUNET_SPLITS, "mu2net": MU2NET_SPLITS}  # Method.splits


def source_of(experiment: Experiment) -> TaskSource:
    """The tasks as the experiment's method splits them."""
    # Crops need more pixels, if a data set has images of many sizes.
    canvas = min(2 * experiment.defaults["ds_image_size"], CANVAS)
    return TaskSource(rules=SPLITS[experiment.method.splits], canvas=canvas)
