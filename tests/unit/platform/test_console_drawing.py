"""The lineage drawing: causes left of what came of them, nothing on top of anything else."""

import random
import re

from citybrain.core.schemas import LineageEdge, LineageGraph, LineageNode
from citybrain.platform.console.drawing import HEIGHT, WIDTH, draw, shorten


def graph(names, edges):
    return LineageGraph(
        nodes=[LineageNode(id=name, kind="version", name=name) for name in names],
        edges=[LineageEdge(source=a, target=b, says="s") for a, b in edges],
    )


def test_every_edge_runs_to_the_right_and_no_two_boxes_touch():
    names = [f"n{i}" for i in range(30)]
    chance = random.Random(2)
    edges = {(names[i], names[j]) for j in range(1, 30) for i in chance.sample(range(j), 1)}
    drawing = draw(graph(names, sorted(edges)))
    at = {box.node.id: box for box in drawing.boxes}
    assert all(at[a].x + WIDTH < at[b].x for a, b in edges)
    for one in drawing.boxes:
        assert 0 <= one.x <= drawing.width - WIDTH
        assert 0 <= one.y <= drawing.height - HEIGHT
        for other in drawing.boxes:
            apart = abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
            assert one is other or apart
    assert len(drawing.lines) == len(edges)


def test_a_line_over_several_columns_runs_behind_no_box():
    drawing = draw(graph(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")]))
    at = {box.node.id: box for box in drawing.boxes}
    far = next(line for line in drawing.lines if (line.source, line.target) == ("a", "c"))
    across = re.search(rf" (\d+) H{at['b'].x + WIDTH}", far.path)
    assert across
    assert not at["b"].y <= int(across[1]) <= at["b"].y + HEIGHT


def test_a_circle_and_an_empty_graph_are_drawn():
    drawing = draw(graph(["a", "b", "c"], [("a", "b"), ("b", "a"), ("a", "c")]))
    assert len(drawing.boxes) == 3
    assert draw(graph([], [])).boxes == []


def test_long_names_are_cut_where_they_would_leave_the_box():
    assert shorten("vehicle-detector@3") == "vehicle-detector@3"
    assert shorten("x" * 30) == "x" * 19 + "…"
    assert shorten("车" * 11) == "车" * 9 + "…"
    assert shorten("车" * 10) == "车" * 10
