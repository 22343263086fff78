"""Graphs of a multitask system: the components of its paths, and the flow of knowledge.

Layouts are computed here and drawn with matplotlib. Draw inside `figures.style()`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from evolution.reports.figures import INK, ROOT_COLOUR
from evolution.reports.system_snapshots import Snapshot

# Kind of component -> (place from the bottom, label); a number in a name orders within the kind.
# A residual adapter is before the block of its number, an unknown kind below the head.
_KINDS: Mapping[str, tuple[float, str]] = {
    "embedding": (0, "Patch embedding"),
    "cls": (1, "Class token"),
    "posembed_input": (2, "Position embedding"),
    "residual_adapter": (3, "Residual adapter"),
    "encoderblock": (3, "Transformer layer"),
    "head": (5, "Head"),
}
_OMITTED = "encoder_norm"
_NODE_HEIGHT = 0.5  # of a level


@dataclass(slots=True)
class Node:
    """A component's box; the unit of columns is one task."""

    component: int  # its id
    level: int
    users: list[int]  # columns of the tasks whose paths contain it
    x: float  # centre

    @property
    def width(self) -> float:
        """Its width, larger if more paths use it."""
        return 0.78 + 0.3 * (len(self.users) - 1)

    def lane(self, column: int) -> float:
        """The point where the path of the task in this column crosses the box."""
        share = (self.users.index(column) + 0.5) / len(self.users)
        return self.x + (share - 0.5) * 0.9 * self.width


def label_of(name: str) -> str:
    """A component's name for people; unknown names stay as they are."""
    kind, number = _kind(name)
    return f"{_KINDS[kind][1]} {number or ''}".strip() if kind in _KINDS else name


def _kind(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*?)_?(\d*)", name)
    assert match is not None
    return match[1], match[2]


def _place(name: str) -> tuple[float, int, bool, str]:
    kind, number = _kind(name)
    return _KINDS.get(kind, (4, ""))[0], int(number or 0), kind == "encoderblock", name


def layout(system: Snapshot) -> tuple[list[str], list[str], dict[int, Node]]:
    """Tasks from left to right, component names from the bottom up, nodes by component id.

    Tasks with similar paths, from the bottom up, are neighbours.
    """
    routes = system.routes
    tasks = sorted(routes, key=lambda task: list(routes[task].components.values()))
    shown = {name for route in routes.values() for name in route.components} - {_OMITTED}
    names = sorted(shown, key=_place)
    nodes: dict[int, Node] = {}
    for column, task in enumerate(tasks):
        for name, component in routes[task].components.items():
            if name != _OMITTED:
                node = Node(component, names.index(name), [], 0.0)
                nodes.setdefault(component, node).users.append(column)
    for level in range(len(names)):
        _place_level([node for node in nodes.values() if node.level == level])
    return tasks, names, nodes


def _place_level(nodes: list[Node]) -> None:
    """Places each box as near to the middle of its users as its level allows."""
    nodes.sort(key=lambda node: (np.mean(node.users), node.component))
    wanted = [float(np.mean(node.users)) for node in nodes]
    apart = [(a.width + b.width) / 2 + 0.16 for a, b in pairwise(nodes)]
    right, left = wanted[:], wanted[:]
    for i, gap in enumerate(apart, 1):
        right[i] = max(right[i], right[i - 1] + gap)
    for i in range(len(apart) - 1, -1, -1):
        left[i] = min(left[i], left[i + 1] - apart[i])
    for node, a, b in zip(nodes, left, right, strict=True):
        node.x = (a + b) / 2


def network(system: Snapshot, owners: Mapping[int, str], colours: Mapping[str, str]) -> Figure:
    """The multitask network from the bottom up: a box a component, a line a task's path.

    A box is filled with the colour of the task that first contained it (`owners`, by component
    id), grey if it is the root's. The active task's path is drawn in black.
    """
    tasks, names, nodes = layout(system)
    axes, column = _canvas(tasks, names, list(nodes.values()))
    for node in nodes.values():
        _box(axes, node, colours.get(owners[node.component], ROOT_COLOUR))
    for at, task in enumerate(tasks):
        path, active = system.routes[task], task == system.active
        route = [nodes[c] for c in path.components.values() if c in nodes]
        line = _route(route, at, INK if active else colours[task])
        line.set_linewidth(2.4 if active else 1.3)
        axes.add_artist(line)
        weight = "bold" if active else "normal"
        axes.text(at, -1, task, rotation=90, ha="center", va="top", fontsize=8, weight=weight)
        if path.quality is not None:
            top = route[-1]
            size = min(8, column * 17)
            axes.text(
                top.lane(at), top.level, f"{100 * path.quality:.2f}", fontsize=size,
                ha="center", va="center", color=_readable(colours.get(owners[top.component])),
            )  # fmt: skip
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def _canvas(tasks: list[str], names: list[str], nodes: list[Node]) -> tuple[Axes, float]:
    """Axes in columns and levels with names of the levels, and the width of a column in inches."""
    low = min(-0.5, *(node.x - node.width / 2 for node in nodes))
    high = max(len(tasks) - 0.5, *(node.x + node.width / 2 for node in nodes))
    column = float(np.clip(7.8 / (high - low), 0.36, 1.2))
    left, below = 1.6, 0.085 * max(len(task) for task in tasks) + 0.15  # inches
    width, height = left + (high - low) * column + 0.1, below + 0.46 * (len(names) + 0.4)
    figure = Figure((width, height))
    axes = figure.add_axes(
        (left / width, below / height, 1 - (left + 0.1) / width, 1 - below / height)
    )
    axes.set(xlim=(low, high), ylim=(-0.9, len(names) - 0.5))
    axes.axis("off")
    for level, name in enumerate(names):
        axes.text(low - 0.1 / column, level, label_of(name), ha="right", va="center", fontsize=8)
    return axes, column


def _box(axes: Axes, node: Node, colour: str) -> None:
    axes.add_artist(  # add_patch would measure each for limits that are already set
        FancyBboxPatch(
            (node.x - node.width / 2 + 0.08, node.level - _NODE_HEIGHT / 2),
            node.width - 0.16, _NODE_HEIGHT, boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor=colour, edgecolor="none", alpha=0.75, mutation_aspect=0.8,
        )
    )  # fmt: skip


def _route(route: Sequence[Node], column: int, colour: str) -> PathPatch:
    """A line from the task's name up through its boxes, vertical inside each."""
    points: list[tuple[float, float]] = [(column, -0.9)]
    codes = [Curve.MOVETO]
    for node in route:
        x0, y0 = points[-1]
        x, y = node.lane(column), node.level - _NODE_HEIGHT / 2
        middle = (y0 + y) / 2
        points += [(x0, middle), (x, middle), (x, y)]
        codes += [Curve.CURVE4] * 3
        if node is not route[-1]:
            points.append((x, node.level + _NODE_HEIGHT / 2))
            codes.append(Curve.LINETO)
    return PathPatch(Curve(points, codes), facecolor="none", edgecolor=colour)


def _readable(background: str | None) -> str:
    """Black or white, the one that is readable on the colour."""
    red, green, blue = to_rgb(background or ROOT_COLOUR)
    return "#101216" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "#ffffff"


def knowledge_graph(tasks: Sequence[str], counts: np.ndarray, colours: Mapping[str, str]) -> Figure:
    """Tasks on a circle; an arrow leads from an ancestor's task to the task that descends from it.

    Its width is (count + total / 2) / (total + total / 2), where total is the number of all
    ancestors of the task it leads to; `counts` is [task, ancestor's task].
    """
    size = 6.5 + 0.05 * len(tasks)
    figure = Figure((size + 2, size))
    axes = figure.add_axes((0, 0, 1, 1))
    reach = 1.35 + 0.02 * max(len(task) for task in tasks)
    axes.set(xlim=(-reach * (size + 2) / size, reach * (size + 2) / size), ylim=(-reach, reach))
    axes.axis("off")
    places = [_on_circle(i, len(tasks)) for i in range(len(tasks))]
    for to, origin in np.argwhere(counts).tolist():
        if to != origin:
            share = (counts[to, origin] + 0.5 * counts[to].sum()) / (1.5 * counts[to].sum())
            _arrow(axes, places[origin], places[to], 2.6 * share, colours[tasks[origin]])
    for task, (x, y) in zip(tasks, places, strict=True):
        axes.plot(x, y, "o", ms=9, color=colours[task])
        _name_outside(axes, task, math.atan2(y, x))
    return figure


def _on_circle(i: int, count: int) -> tuple[float, float]:
    angle = math.pi / 2 - 2 * math.pi * i / count
    return math.cos(angle), math.sin(angle)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], width: float, colour: str
) -> None:
    axes.add_artist(
        FancyArrowPatch(
            start, end, connectionstyle="arc3,rad=0.18", shrinkA=6, shrinkB=6, alpha=0.8,
            arrowstyle="-|>", mutation_scale=6 + 3 * width, lw=width, color=colour,
        )
    )  # fmt: skip


def _name_outside(axes: Axes, name: str, angle: float) -> None:
    """Writes a name in the direction of its place, never upside down."""
    x, y = 1.06 * math.cos(angle), 1.06 * math.sin(angle)
    turned = math.cos(angle) < -1e-9
    axes.text(
        x, y, name, fontsize=8, rotation=math.degrees(angle) + 180 * turned,
        ha="right" if turned else "left", va="center", rotation_mode="anchor", color=INK,
    )  # fmt: skip
