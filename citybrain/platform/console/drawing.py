"""A lineage graph as boxes and lines in columns, for a template to write as SVG."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from citybrain.core.schemas import LineageEdge, LineageGraph, LineageNode

WIDTH, HEIGHT = 172, 48
ACROSS, DOWN, EDGE = 52, 16, 2
"""Pixels of a box, between columns, between boxes of a column, and around the drawing."""
UNITS = 20
"""Latin letters that fit into a box; a Chinese character counts as two."""


@dataclass(frozen=True)
class Box:
    """One node."""

    node: LineageNode
    label: str
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    """One edge, as the path of an SVG."""

    path: str
    source: str
    target: str
    says: str


@dataclass(frozen=True)
class Drawing:
    """A graph that was laid out."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]


def draw(graph: LineageGraph) -> Drawing:
    """Causes on the left; each box one column right of the last thing that it came from."""
    columns = _columns(graph)
    ways = [_way(edge, columns) for edge in graph.edges]
    for way in ways:
        columns |= {stop: columns[way[0]] + at for at, stop in enumerate(way[1:-1], start=1)}
    places = _places(ways, columns)

    def corner(name: str) -> tuple[int, int]:
        return EDGE + columns[name] * (WIDTH + ACROSS), EDGE + places[name] * (HEIGHT + DOWN)

    names = {node.id: node.name for node in graph.nodes}
    boxes = [Box(node, shorten(node.name), *corner(node.id)) for node in graph.nodes]
    return Drawing(
        width=max((corner(name)[0] for name in columns), default=0) + WIDTH + EDGE,
        height=max((corner(name)[1] for name in columns), default=0) + HEIGHT + EDGE,
        boxes=boxes,
        lines=[
            Line(_path([corner(stop) for stop in way]), names[edge.source], names[edge.target],
                 edge.says)
            for edge, way in zip(graph.edges, ways, strict=True)
        ],
    )  # fmt: skip


def _columns(graph: LineageGraph) -> dict[str, int]:
    columns = {node.id: 0 for node in graph.nodes}
    for _ in graph.nodes:  # as many rounds as the longest way; a circle ends here, too
        moved = False
        for edge in graph.edges:
            if columns[edge.target] <= columns[edge.source] < len(columns) - 1:
                columns[edge.target] = columns[edge.source] + 1
                moved = True
        if not moved:
            break
    last = max(columns.values(), default=0)
    return columns | {node.id: last for node in graph.nodes if node.kind == "department"}


def _way(edge: LineageEdge, columns: dict[str, int]) -> list[str]:
    """An edge with a place of its own in every column that it crosses: it runs behind no box."""
    between = range(columns[edge.source] + 1, columns[edge.target])
    return [edge.source, *(f"{edge.source} {edge.target} {n}" for n in between), edge.target]


def _places(ways: list[list[str]], columns: dict[str, int]) -> dict[str, int]:
    """Rows: near the middle of what a box came from, which keeps most lines apart."""
    before: dict[str, list[str]] = defaultdict(list)
    for way in ways:
        for source, target in pairwise(way):
            before[target].append(source)
    places: dict[str, int] = {}

    def middle(name: str) -> tuple[float, str]:
        known = [places[source] for source in before[name] if source in places]
        return (sum(known) / len(known) if known else 0.0, name)

    for column in range(max(columns.values(), default=0) + 1):
        here = sorted((name for name in columns if columns[name] == column), key=middle)
        places.update({name: place for place, name in enumerate(here)})
    return places


def _path(corners: list[tuple[int, int]]) -> str:
    """Curves from column to column, straight across the columns in between."""
    x, y = corners[0][0] + WIDTH, corners[0][1] + HEIGHT // 2
    drawn = f"M{x} {y}"
    for left, top in corners[1:]:
        to = top + HEIGHT // 2
        bend = max(ACROSS, abs(left - x)) // 2
        drawn += f" C{x + bend} {y} {left - bend} {to} {left} {to}"
        if (left, top) != corners[-1]:
            drawn += f" H{left + WIDTH}"
        x, y = left + WIDTH, to
    return drawn


def shorten(text: str, units: int = UNITS) -> str:
    """As much of a name as fits into a box."""
    used = 0
    for place, letter in enumerate(text):
        used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if used > units:
            return text[: max(1, place - 1)] + "…"
    return text
