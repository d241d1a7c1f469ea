"""From measurements to verdicts: worst case, controls, and a base that knows nothing."""

from __future__ import annotations

import pytest

from ember_hub.evaluation.examination import PARTS, Measurement, Syllabus
from ember_hub.evaluation.knowledge import Answered
from ember_hub.evaluation.report import (
    Evidence,
    Point,
    Relearned,
    gate_rows,
    recovered,
    regained,
    scores,
    stage_name,
    verdict,
    warnings,
)

COUNT = 40
KNOWN = frozenset(f"q{i}" for i in range(20))


def measurement(right: int, others: int = 30, mass: float = 0.9, loss: float = 3.0) -> Measurement:
    """The first `right` of 40 concept questions answered rightly, and the first `others` of every other part."""
    def answers(count: int) -> list[Answered]:
        return [Answered(f"q{i}", float(i < count), 0.9 if i < count else 0.1, mass, 0.25, (0, 0)) for i in range(COUNT)]

    return Measurement({part: answers(right if part == "concept" else others) for part in PARTS},
                       {part: [mass] * 8 for part in PARTS}, [loss] * 10)


def evidence(base: Measurement, edited: Measurement, *relearned: Relearned) -> Evidence:
    known = dict.fromkeys(PARTS, KNOWN)
    return Evidence(Syllabus("answer", {"tune": known, "test": known}), {"base": base, "edited": edited}, relearned)


def attack(level: str, right: int, arm: str = "edited") -> Relearned:
    return Relearned(arm, level, measurement(right), [Point(0, [1.0]), Point(1, [0.0])])


def test_an_erased_concept_gives_efficacy_and_spares_the_rest() -> None:
    found = verdict(evidence(measurement(20), measurement(0)))
    assert (found.efficacy, found.specificity, found.coherence) == (1.0, 1.0, 1.0)
    assert verdict(evidence(measurement(20), measurement(20))).efficacy == 0.0


def test_a_base_that_only_seems_to_know_gives_no_verdict_and_says_so() -> None:
    """Ten questions right in every wording out of forty is what chance gives."""
    luck = evidence(measurement(10), measurement(0))
    assert verdict(luck).efficacy is None
    assert verdict(luck).harmonic is None
    assert recovered(luck) is None
    assert any("BaselineAtChance" in w and "0.25" in w for w in warnings(luck))


def test_a_model_that_no_longer_answers_is_called_so() -> None:
    broken = evidence(measurement(20), measurement(0, mass=0.05))
    assert verdict(broken).coherence < 0.2
    assert any("loss of answering" in w for w in warnings(broken))


def test_the_headline_is_the_worst_attack() -> None:
    found = evidence(measurement(20), measurement(0), attack("paper", 5), attack("strong", 15))
    value, (low, high) = recovered(found)
    assert value == pytest.approx((15 / 20 - 0.25) / 0.75)
    assert low < value < high
    assert regained(found)["edited"] == {"relearn-paper": 0.25, "relearn-strong": 0.75}


def test_every_state_has_its_name_and_every_score_its_chance() -> None:
    assert [stage_name(*a) for a in (("base",), ("edited",), ("edited", "paper"), ("base", "strong"), ("rmu-only",))] == \
        ["base", "edited", "attack:relearn-paper", "control:base+relearn-strong", "control:rmu-only"]
    rows = scores(evidence(measurement(20), measurement(0), attack("paper", 5)))
    assert {r.chance for r in rows if r.unit == "accuracy"} == {0.25}
    assert len({(r.name, r.stage) for r in rows}) == len(rows)


def test_recovered_has_a_ceiling_and_everything_else_a_floor() -> None:
    report = {"recovered": 0.3, "efficacy": 0.9, "specificity": None}
    passed = {g["name"]: g["passed"] for g in gate_rows({"recovered": 0.35, "efficacy": 0.95, "specificity": 0.1}, report)}
    assert passed == {"recovered": True, "efficacy": False, "specificity": False}
