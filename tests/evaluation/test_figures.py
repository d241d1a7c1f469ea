"""The relearning figure: written whole, the same every time, and with no two labels touching."""

from __future__ import annotations

import struct
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ember_hub.evaluation.figures import relearning_figure, spread
from tests.publish.test_card import example_report

LEVELS = ("relearn-paper", "relearn-strong")


def test_the_same_report_gives_the_same_picture_without_a_date_or_version_in_it(tmp_path):
    first, second = (relearning_figure(example_report(), tmp_path / name) for name in ("a/curve.png", "b/curve.png"))

    content = first.read_bytes()
    assert content == second.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (1200, 620)
    assert b"tEXt" not in content
    assert [path.name for path in first.parent.iterdir()] == ["curve.png"]


def test_a_run_without_attacks_has_no_picture(tmp_path):
    assert relearning_figure(example_report(attacks=()), tmp_path / "curve.png") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("attacks", [("relearn-strong",), ("relearn-paper", "relearn-strong"), ("relearn-$\\alpha$語",)])
def test_one_panel_or_several_and_names_nobody_expected_are_drawn_without_a_warning(tmp_path, attacks):
    report = example_report(attacks=attacks if attacks[0] in LEVELS else LEVELS[:1])
    extra = [{**report["curves"][0], "level": level, "arm": arm}
             for level, arm in ((attacks[-1], "x$_\u202e" * 9), (attacks[0], "ember-only"))]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = relearning_figure(report | {"curves": [*report["curves"], *extra]}, tmp_path / "curve.png")
    pixels = np.asarray(Image.open(drawn).convert("L"))
    assert pixels[:, 1100:-6].min() < 200
    assert pixels[:, -6:].min() == 255, "a name is cut off"


def test_a_failure_leaves_nothing_half_written(tmp_path):
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(OSError, match="curve"):
        relearning_figure(example_report(), tmp_path / "curve.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_labels_keep_their_order_and_distance_and_stay_on_the_axis(heights):
    heights = sorted(heights)
    placed = spread(heights, 0.09)

    assert all(b - a >= 0.09 - 1e-9 for a, b in pairwise(placed))
    assert all(0 <= height <= 1 + 1e-9 for height in placed)
    if all(b - a >= 0.09 for a, b in pairwise(heights)):
        assert placed == pytest.approx(heights)
