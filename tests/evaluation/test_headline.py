"""The number that stands first: the worst attack that brings something back, not one that hands it over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ember_hub.evaluation.attacks.relearning import RelearnLora
from ember_hub.evaluation.gates import gate_rows
from ember_hub.evaluation.headline import recoveries, worst, worst_case
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.evaluation.report import kept_knowledge, verdict
from ember_hub.evaluation.score import wilson
from ember_hub.evaluation.shares import kept_with_interval, verdict_intervals
from tests.evaluation.evidence import evidence, state, under_attack

KINDS = {"weak": RelearnLora, "strong": RelearnLora}


class CopiesBack(RelearnLora):
    restores_by_definition = True


def test_the_headline_is_the_worst_attack() -> None:
    found = recoveries(evidence(state(20), state(0), {"weak": {"edited": under_attack(5), "base": under_attack(20)},
                                                      "strong": {"edited": under_attack(15), "base": under_attack(20)}}), KINDS)
    headline = worst(found)
    assert headline.attack == "strong"
    assert headline.recovered == (15 / 20 - 0.25) / 0.75
    assert headline.interval[0] < headline.recovered < headline.interval[1]


def test_the_worst_case_is_no_attack_where_every_attack_shows_less_than_is_there_without_one() -> None:
    """Asked in a way that helps nobody, the model shows less than it does when it is simply asked."""
    base, edited = state(20), state(11)
    found = evidence(base, edited, {"weak": {"edited": under_attack(6), "base": under_attack(20)}})
    headline = worst_case(found, recoveries(found, KINDS))
    assert headline.attack == "none"
    assert headline.recovered == pytest.approx(kept_knowledge(found, "concept"))
    assert headline.interval[0] < headline.recovered < headline.interval[1]
    assert worst_case(evidence(base, edited), []) is None, "without attacks there is no worst case"
    stronger = evidence(base, edited, {"weak": {"edited": under_attack(15), "base": under_attack(20)}})
    assert worst_case(stronger, recoveries(stronger, KINDS)).attack == "weak"


def test_verdicts_have_intervals_that_hold_them() -> None:
    found = evidence(state(20), state(9))
    bounds, value = verdict_intervals(found), verdict(found)
    for name in ("efficacy", "specificity", "coherence", "harmonic"):
        low, high = bounds[name]
        assert 0 <= low <= value.to_json()[name] <= high <= 1
    assert bounds["efficacy"][1] - bounds["efficacy"][0] > 0.3, "twenty questions tell little"
    assert verdict_intervals(evidence(state(10), state(3)))["efficacy"] is None, "the base is at chance"


def test_known_questions_that_the_base_answers_no_better_than_by_chance_give_no_share_and_no_interval() -> None:
    """In the measured wordings it may be right in just one of four, though it is above chance on all questions."""
    base, now = (Reading("concept_known", "accuracy", {str(i): float(i < right) for i in range(4)}, 0.25) for right in (1, 0))
    assert kept_with_interval(base, now) == (None, None)


def test_an_attack_that_tells_a_stranger_the_answers_does_not_count() -> None:
    found = evidence(state(20), state(0), {
        "weak": {"edited": under_attack(8), "base": under_attack(20), "never-known": under_attack(6)},
        "strong": {"edited": under_attack(20), "base": under_attack(20), "never-known": under_attack(18)}})
    by = {r.attack: r for r in recoveries(found, KINDS)}
    assert by["strong"].hands_over
    assert not by["weak"].hands_over
    assert worst(list(by.values())).attack == "weak"
    assert by["weak"].taught < 0.1


def test_copying_the_rows_back_does_not_count() -> None:
    found = recoveries(evidence(state(20), state(0), {"weak": {"edited": under_attack(20), "base": under_attack(20)}}),
                       {"weak": CopiesBack})
    assert found[0].recovered == 1.0
    assert worst(found) is None


def test_the_stricter_of_two_ceilings_is_used() -> None:
    """Under an attack that weakens the base too, what the edited model shows is a larger share."""
    found = recoveries(evidence(state(20), state(0), {"weak": {"edited": under_attack(10), "base": under_attack(12)}}), KINDS)
    assert found[0].recovered == (10 / 20 - 0.25) / (12 / 20 - 0.25)


def test_a_format_with_another_chance_is_compared_with_the_base_in_that_format() -> None:
    attacked = {"weak": {"edited": under_attack(4, 0.0), "base": under_attack(8, 0.0)}}
    found = recoveries(evidence(state(20), state(0), attacked), KINDS)
    assert found[0].recovered == 0.5


def test_where_the_base_shows_nothing_under_an_attack_nothing_is_claimed() -> None:
    found = recoveries(evidence(state(20), state(0), {"weak": {"edited": under_attack(5), "base": under_attack(6)}}), KINDS)
    assert found[0].recovered is None
    assert worst(found) is None


def test_of_a_base_at_chance_nothing_is_claimed_and_no_gate_holds() -> None:
    """It seems to know ten questions of forty, as chance would have it."""
    found = evidence(state(10), state(3), {"weak": {"edited": under_attack(3), "base": under_attack(10)}})
    assert recoveries(found, KINDS)[0].recovered is None
    assert kept_knowledge(found, "concept") is None
    report = {"attacks": [{"name": "weak", "recovered": None}], "recovered": None}
    assert not any(row["passed"] for row in gate_rows({"recovered": 1.0, "concept": 0.0}, report, found))


def test_where_all_answers_agree_the_interval_is_that_of_so_few_questions() -> None:
    """None of twenty: up to 0.16 of them may be known all the same, of the 0.4 that the base shows under the attack."""
    attacked = {"weak": {"edited": under_attack(0, 0.0), "base": under_attack(8, 0.0)}}
    found = recoveries(evidence(state(20), state(0), attacked), KINDS)
    assert found[0].recovered == 0
    assert found[0].interval == (0, pytest.approx(wilson(0, 20)[1] / 0.4))


def test_asked_openly_each_state_has_a_chance_of_its_own() -> None:
    """A broken model rarely hits a wrong option by chance, so its right answers are not chance either."""
    edited, base = (Measured((replace(under_attack(right, chance).readings[0], format="open"),))
                    for right, chance in ((6, 0.1), (18, 0.5)))
    found = recoveries(evidence(state(20), state(0), {"weak": {"edited": edited, "base": base}}), KINDS)
    assert found[0].recovered == pytest.approx((0.3 - 0.1) / (0.9 - 0.5))
