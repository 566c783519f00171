import re
from xml.etree import ElementTree

import pytest

from report.curves import BOTTOM, HEIGHT, LEFT, POINTS, RIGHT, TOP, WIDTH, draw, thin


def paths(svg):
    """The points of each curve; the first path is the frame."""
    drawn = [
        e.get("d") for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
    ]
    return [
        [tuple(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", d)] for d in drawn[1:]
    ]


def test_a_curve_fills_the_plot():
    [points] = paths(draw("loss", [1, 2, 3], {"loss": [4.0, 3.0, 2.0]}))
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert points == [(LEFT, TOP), middle, (WIDTH - RIGHT, HEIGHT - BOTTOM)]


def test_a_missing_value_breaks_the_curve():
    svg = draw("x", [1, 2, 3], {"a": [1.0, None, 2.0]})
    assert svg.count("M") == 1 + 2  # the frame, and two pieces


def test_one_step_is_a_dot_and_equal_values_are_drawn():
    [points] = paths(draw("loss", [1], {"loss": [2.0]}))
    assert len(points) == 2
    [flat] = paths(draw("loss", [1, 2], {"loss": [2.0, 2.0]}))
    assert flat[0][1] == flat[1][1]


def test_several_curves_are_named_and_names_are_escaped():
    svg = draw("a<b", [1, 2], {"x<y": [1.0, 2.0], "z": [2.0, 1.0]})
    texts = [e.text for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"a<b", "x<y", "z"} <= set(texts)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one number"):
        draw("loss", [1], {"loss": [None]})


def test_many_steps_are_thinned_with_both_ends():
    steps = list(range(10_000))
    few, series = thin(steps, {"a": [float(s) for s in steps]})
    assert len(few) == POINTS
    assert (few[0], few[-1]) == (0, 9_999)
    assert series["a"] == [float(s) for s in few]
