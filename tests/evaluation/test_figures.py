"""The figures: written whole, the same every time, with everything that was measured in them, and no two labels touching."""

from __future__ import annotations

import struct
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ember_hub.evaluation.figures import FIGURES, attacks_figure, draw_figures, relearning_figure, tokens_figure
from ember_hub.evaluation.figures.style import ARMS, spread
from ember_hub.evaluation.figures.tokens import place
from tests.publish.example import example_report

NASTY = "$\\alpha_ 語 \u202e\x00 <b> " * 9


def size(path: Path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])


def share_of(path: Path, colour: str) -> float:
    """The share of a figure's pixels that have exactly this colour."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return float((pixels == [int(colour[i:i + 2], 16) for i in (1, 3, 5)]).all(axis=2).mean())


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_report_gives_the_same_picture_without_a_date_or_version_in_it(name, tmp_path):
    first, second = (FIGURES[name](example_report(), tmp_path / folder / "a.png") for folder in ("one", "two"))

    assert first.read_bytes() == second.read_bytes()
    assert size(first)[0] == 1080
    assert b"tEXt" not in first.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["a.png"]


def test_a_report_without_anything_to_draw_has_no_pictures(tmp_path):
    unknown = [{**token, "mu": None} for token in example_report()["tokens"]]
    empty = example_report() | {"attacks": [a for a in example_report()["attacks"] if a["not_measured"]], "curves": [],
                                "layers": {"logit-lens": {}}, "tokens": unknown}

    assert draw_figures(empty, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    assert set(draw_figures(example_report(), tmp_path)) == {path.stem for path in tmp_path.iterdir()} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_names_nobody_expected_are_drawn_whole_and_without_a_warning(name, tmp_path):
    report = example_report()
    for attack in report["attacks"]:
        attack["title"] = NASTY
        attack["arms"] = attack["arms"] and attack["arms"] | {NASTY: attack["arms"]["base"], "npo-only": attack["arms"]["base"]}
    report["curves"] += [{**report["curves"][0], "arm": NASTY}, {**report["curves"][0], "level": NASTY, "arm": "ember-only"}]
    report["layers"] = {NASTY: {**report["layers"]["logit-lens"], NASTY: report["layers"]["logit-lens"]["base"]}}
    report["tokens"] = [{**token, "text": NASTY + str(i)} for i, token in enumerate(report["tokens"])]

    drawn = FIGURES[name](report, tmp_path / "a.png")
    pixels = np.asarray(Image.open(drawn).convert("L"))
    assert pixels[:, :-6].min() < 60
    assert pixels[:, -6:].min() == 255, "a name is cut off"


def test_a_failure_leaves_nothing_half_written(tmp_path):
    (tmp_path / "attacks.png").mkdir()
    with pytest.raises(OSError, match="attacks"):
        draw_figures(example_report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["attacks.png"]


@pytest.mark.parametrize("state", ["never-known", "random-edit", "rmu-only"])
def test_every_control_is_in_the_pictures_and_only_if_it_was_measured(state, tmp_path):
    report, without = example_report(), example_report()
    without["scores"] = [s for s in without["scores"] if s["stage"] != f"control:{state}"]
    without["curves"] = [curve for curve in without["curves"] if curve["arm"] != state]
    for attack in without["attacks"]:
        attack["arms"].pop(state, None)

    for name in ("attacks", "relearning"):
        assert share_of(FIGURES[name](report, tmp_path / "with.png"), ARMS[state].colour) > 1e-4
        assert share_of(FIGURES[name](without, tmp_path / "without.png"), ARMS[state].colour) == 0


def test_bars_are_as_long_as_the_accuracies_and_those_that_do_not_count_are_hollow(tmp_path):
    report = example_report()
    solid = share_of(attacks_figure(report, tmp_path / "a.png"), ARMS["edited"].colour)
    for attack in report["attacks"]:
        if attack["arms"]:
            attack["arms"]["edited"] |= {"value": attack["arms"]["edited"]["value"] / 2}
    halved = share_of(attacks_figure(report, tmp_path / "b.png"), ARMS["edited"].colour)
    for attack in report["attacks"]:
        attack["restores_by_definition"] = True
    hollow = share_of(attacks_figure(report, tmp_path / "c.png"), ARMS["edited"].colour)

    assert 0.45 < halved / solid < 0.62
    assert hollow < halved / 2


@pytest.mark.parametrize(("levels", "height"), [(1, 726), (2, 1266), (3, 1806), (5, 1806)])
def test_up_to_three_training_attacks_are_drawn_the_worst_of_more(levels, height, tmp_path):
    report = example_report()
    shown = list(dict.fromkeys(curve["level"] for curve in report["curves"]))[:levels]
    curves = [curve for curve in report["curves"] if curve["level"] in shown]
    drawn = relearning_figure(report | {"curves": curves}, tmp_path / "all.png")

    assert size(drawn) == (1080, height)
    if levels == 5:
        # Paper relearning brings back least, and leaving it out changes but the number in the subtitle.
        less = relearning_figure(report | {"curves": curves[5:]}, tmp_path / "less.png")
        one, other = (np.asarray(Image.open(path))[260:] for path in (drawn, less))
        assert (one == other).all()


@pytest.mark.parametrize(("tfidf", "mu", "is_named"), [(9.0, 1.0, True), (5.0, 3.0, True), (0.0, 0.1, True), (5.05, 1.05, False)])
def test_of_many_tokens_the_extreme_ones_are_named_and_those_in_the_crowd_are_not(tfidf, mu, is_named, tmp_path):
    crowd = [{"id": i, "text": f"t{i}", "moved": 1.0, "mu": 1 + i % 20 / 200, "tfidf": 5 + i // 20 / 200} for i in range(400)]
    corners = [{"id": 400 + i, "text": f"c{i}", "moved": 1.0, "mu": m, "tfidf": t} for i, (t, m) in enumerate(((0, 3), (9, 0.1)))]
    drawn = [tokens_figure({"tokens": [*crowd, *corners, {"id": 500, "text": text, "moved": 1.0, "mu": mu, "tfidf": tfidf}]},
                           tmp_path / f"{text}.png").read_bytes() for text in ("mask", "musk")]

    assert (drawn[0] != drawn[1]) == is_named


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 600)), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_labels_touch_neither_each_other_nor_the_dots_of_others_and_stay_in_the_frame(dots, dice):
    order = dice.sample(range(len(dots)), len(dots))
    sizes = [(dice.uniform(20, 160), 24.0) for _ in order]
    placed = place(np.array(dots, dtype=float), order, sizes, (0.0, 0.0, 900.0, 600.0), 10.0)

    for label, (left, bottom, right, top) in placed.items():
        assert min(left, bottom, 900 - right, 600 - top) >= 0
        assert (right - left, top - bottom) == pytest.approx(sizes[label])
        others = [dot for i, dot in enumerate(dots) if i != order[label]]
        assert not any(left - 20 < x < right + 20 and bottom - 10 < y < top + 10 for x, y in others)
    for one, other in combinations(placed.values(), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    if len(dots) == 1 and 12 <= dots[0][1] <= 588:
        assert len(placed) == 1, "there is room on one side at least"


@given(st.lists(st.floats(0, 1), max_size=8))
def test_labels_keep_their_order_and_distance_and_stay_on_the_axis(heights):
    heights = sorted(heights)
    placed = spread(heights, 0.09)

    assert all(b - a >= 0.09 - 1e-9 for a, b in pairwise(placed))
    assert all(0 <= height <= 1 + 1e-9 for height in placed)
    if all(b - a >= 0.09 for a, b in pairwise(heights)):
        assert placed == pytest.approx(heights)
