"""What the axes of figures span, and where their zero is."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from evolution.reports import figures, training_figures
from evolution.training.curves import Point

SERIES = ([1, 2, 3], [0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1, 20], "linear"), ([1, 21], "log"), ([0, 21], "linear"), ([-1, 21], "linear")],
)
@pytest.mark.parametrize("vertical", [False, True])
def test_an_axis_is_logarithmic_where_values_span_more_than_a_factor_of_20(values, scale, vertical):
    axes = Figure().add_subplot()
    figures.spread_out(axes, values, vertical=vertical)
    spread, other = axes.get_xscale(), axes.get_yscale()
    if vertical:
        spread, other = other, spread
    assert (spread, other) == (scale, "linear")


@pytest.mark.parametrize("spread_out", [False, True])
def test_learning_rates_are_drawn_from_0_and_losses_as_far_apart_as_they_are(spread_out):
    curve = [Point(1, 100.0, 0.3), Point(2, 1.0, 0.1)]
    kind = "loss" if spread_out else "rate"
    with figures.style():
        figure = training_figures.by_step(
            {"t": {7: curve}}, {"t": 7}, {"t": "#000"}, kind, spread_out=spread_out
        )
    (axes,) = figure.axes
    assert axes.get_yscale() == ("log" if spread_out else "linear")
    assert (axes.get_ylim()[0] == 0) != spread_out


def test_paths_are_counted_in_whole_numbers_along_the_bottom():
    colours = {"a": "#000"}
    with figures.style():
        drawn = {
            "sampled paths": figures.curves({"a": SERIES}, colours, SERIES, "accuracy"),
            "id of the sampled path": figures.descent({"a": [SERIES]}, SERIES, colours, "accuracy"),
        }
    for name, figure in drawn.items():
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == (name, "accuracy")
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_a_matrix_has_its_first_row_at_the_top_and_square_cells():
    with figures.style():
        figure = figures.heat_map(["a", "b"], ["c", "d"], np.ones((2, 2)), ("to", "from"), ".0f")
    (axes,) = figure.axes
    assert axes.get_ylim() == (2, 0) and axes.get_xlim() == (0, 2)
    assert axes.get_aspect() == 1
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "d"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("to", "from")
