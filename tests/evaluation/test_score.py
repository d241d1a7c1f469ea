"""Intervals and verdicts: numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ember_hub.evaluation.reading import Reading
from ember_hub.evaluation.score import bootstrap, mean, proportion, wilson
from ember_hub.evaluation.verdict import Verdict, coherence, fluency, harmonic_mean, is_above_chance, kept


def test_wilson_gives_the_textbook_interval() -> None:
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == pytest.approx(1.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_covers_the_mean_of_a_normal_sample_about_as_often_as_it_says() -> None:
    dice = np.random.default_rng(1)
    hits = sum(low <= 0 <= high for low, high in (bootstrap([dice.normal(size=40)], lambda v: v.mean(axis=1))
                                                  for _ in range(60)))
    assert 50 <= hits <= 60


def test_paired_columns_are_resampled_together() -> None:
    values = np.random.default_rng(0).normal(size=50)
    low, high = bootstrap([values, values + 1], lambda a, b: (b - a).mean(axis=1))
    assert low == pytest.approx(1) == high


def test_shares_of_yes_and_no_and_of_one_item_are_not_certain() -> None:
    all_valid = Reading("letters_valid", "fraction", {str(i): 1.0 for i in range(20)}).score("edited")
    assert (all_valid.unit, all_valid.value, round(all_valid.low, 2), all_valid.high) == ("fraction", 1.0, 0.84, 1.0)
    graded = Reading("repetition", "fraction", {"a": 0.2, "b": 0.4, "c": 0.3}).score("edited")
    assert 0.19 < graded.low < graded.value < graded.high < 0.41
    one = Reading("concept_probability", "probability", {"a": 0.9}).score("edited")
    assert (one.unit, one.value) == ("probability", 0.9)
    assert one.high - one.low > 0.5


def test_a_score_carries_its_count_its_interval_and_chance() -> None:
    score = proportion("concept_known", "edited", "test", [1, 0, 0.5, 0], 0.25)
    assert (score.value, score.n, score.chance) == (0.375, 4, 0.25)
    assert score.low < 0.375 < score.high
    assert mean("neutral_loss", "base", "test", [2.0, 4.0], "nats").value == 3.0


def test_what_is_kept_is_measured_from_chance_and_never_leaves_the_unit_interval() -> None:
    assert kept(0.25, 0.75, 0.25) == 0
    assert kept(0.5, 0.75, 0.25) == pytest.approx(0.5)
    assert kept(0.1, 0.75, 0.25) == 0, "below chance is nothing kept, not less than nothing"
    assert kept(0.9, 0.75, 0.25) == 1


def test_a_base_at_or_below_chance_gives_no_verdict_instead_of_a_wrong_sign() -> None:
    assert kept(0.2, 0.25, 0.25) is None
    assert kept(0.3, 0.2, 0.25) is None
    assert not is_above_chance(0.35, 20, 0.25)
    assert is_above_chance(0.9, 20, 0.25)


def test_one_failed_side_fails_the_harmonic_mean() -> None:
    assert harmonic_mean([1.0, 0.0, 1.0]) == 0
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert Verdict(1.0, None, 1.0).harmonic is None
    assert Verdict(1.0, 1.0, 1.0).harmonic == 1


def test_coherence_falls_with_perplexity_and_with_the_mass_on_answers() -> None:
    assert fluency(2.0, 2.0) == 1 == fluency(1.5, 2.0)
    assert fluency(2.0 + math.log(2), 2.0) == pytest.approx(0.5)
    assert coherence(2.0, 2.0, 1.0, 1.0) == 1
    assert coherence(2.0, 2.0, 0.09, 1.0) < 0.2, "a model that no longer answers is broken, not erased"
