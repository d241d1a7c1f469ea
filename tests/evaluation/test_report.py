"""From readings to verdicts: what is claimed, what is not, and which limits hold."""

from __future__ import annotations

import pytest

from ember_hub.errors import ConfigError
from ember_hub.evaluation.attacks.relearning import RelearnLora
from ember_hub.evaluation.evaluations.mmlu import Mmlu
from ember_hub.evaluation.evaluations.questions import Questions
from ember_hub.evaluation.evidence import scores, stage_name
from ember_hub.evaluation.gates import gate_rows, require_gates
from ember_hub.evaluation.reading import Measured
from ember_hub.evaluation.report import kept_share, regained, verdict, warnings
from ember_hub.evaluation.score import paired_p
from tests.evaluation.evidence import evidence, state, under_attack


def test_an_erased_concept_gives_efficacy_and_spares_the_rest() -> None:
    found = verdict(evidence(state(20), state(0)))
    assert (found.efficacy, found.specificity, found.coherence) == (1.0, 1.0, 1.0)
    assert verdict(evidence(state(20), state(20))).efficacy == 0.0


def test_a_base_that_only_seems_to_know_gives_no_verdict_and_says_so() -> None:
    """Ten questions right in every wording out of forty is what chance gives."""
    luck = evidence(state(10), state(0))
    assert verdict(luck).efficacy is None
    assert verdict(luck).harmonic is None
    assert any("BaselineAtChance" in w and "0.25" in w for w in warnings(luck))


def test_a_model_that_no_longer_answers_is_called_so() -> None:
    broken = evidence(state(20), state(0, mass=0.05))
    assert verdict(broken).coherence < 0.2
    assert any("loss of answering" in w for w in warnings(broken))


def test_what_was_not_measured_gives_no_verdict() -> None:
    only_questions = {name: measured for name, measured in state(0).items() if name == "questions"}
    assert verdict(evidence(state(20), only_questions)).coherence is None
    assert verdict(evidence(state(20), only_questions)).efficacy == 1.0


def test_what_is_kept_counts_from_chance_and_losses_as_perplexities() -> None:
    found = evidence(state(20, others=40), state(0, others=35, loss=3.0 + 0.6931472))
    assert kept_share(found, "near_domain_all") == pytest.approx((35 / 40 - 0.25) / 0.75)
    assert kept_share(found, "neutral_loss") == pytest.approx(0.5)
    assert kept_share(found, "mmlu") is None


def test_every_state_has_its_name_and_every_score_its_chance_and_its_pairs() -> None:
    assert [stage_name(*a) for a in (("base",), ("edited",), ("edited", "benign"), ("base", "benign"), ("rmu-only",))] == \
        ["base", "edited", "attack:benign", "control:base+benign", "control:rmu-only"]
    rows = scores(evidence(state(20), state(0), {"benign": {"edited": under_attack(12), "base": under_attack(20)}}))
    assert {r.chance for r in rows if r.unit == "accuracy"} == {0.25}
    assert len({(r.name, r.stage) for r in rows}) == len(rows)
    by = {(r.name, r.stage): r for r in rows}
    assert by["concept_known", "base"].p is None
    assert by["concept_known", "edited"].p < 0.001, "twenty questions lost against the base"
    assert by["near_domain_known", "edited"].p == 1.0, "nothing moved"
    assert by["concept_known", "attack:benign"].p < 0.001, "twelve questions came back against the same state before"
    assert by["concept_known", "control:base+benign"].p == 1.0
    assert regained(evidence(state(20), state(0), {"benign": {"edited": under_attack(12)}})) == {"edited": {"benign": 0.6}}


def test_the_paired_test_is_the_textbook_one() -> None:
    """Five pairs that all moved one way: two of the 32 sign patterns are as extreme."""
    assert paired_p([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]) == 2 / 32
    assert paired_p([0, 1], [1, 0]) == 1.0
    assert paired_p([], []) is None
    assert paired_p([0.0] * 40, [1.0] * 40) < 0.001


def test_recovered_has_a_ceiling_and_everything_else_a_floor_and_failures_stand_first() -> None:
    report = {"recovered": 0.3, "efficacy": 0.9, "specificity": None, "attacks": [{"name": "benign", "recovered": 0.3}]}
    limits = {"recovered": 0.35, "recovered.benign": 0.2, "efficacy": 0.95, "specificity": 0.1, "near_domain": 0.9}
    rows = gate_rows(limits, report, evidence(state(20), state(0)))
    assert {row["name"]: row["passed"] for row in rows} == {
        "recovered": True, "recovered.benign": False, "efficacy": False, "specificity": False, "near_domain": True}
    assert [row["passed"] for row in rows] == sorted(row["passed"] for row in rows)


def test_a_limit_on_what_this_battery_does_not_measure_is_refused() -> None:
    battery = (Questions(), RelearnLora())
    require_gates(["recovered", "recovered.relearn-lora", "near_domain", "concept_all"], battery)
    with pytest.raises(ConfigError) as caught:
        require_gates(["recovered.relearn-lara"], battery)
    assert "recovered.relearn-lora" in caught.value.hint


def test_a_limit_on_what_a_larger_battery_measures_names_that_battery_and_tasks_of_the_harness_may_be_limited() -> None:
    with pytest.raises(ConfigError, match="'mmlu' is not measured in this battery") as caught:
        require_gates(["mmlu"], (Questions(),), installed=(Questions(), Mmlu()))
    assert "--battery standard" in caught.value.hint
    require_gates(["mmlu", "bench_mmlu", "wmdp", "bench_wmdp_bio"], (Questions(),), ("mmlu", "wmdp"), (Mmlu(),))
    scores = [{"name": "bench_wmdp", "stage": stage, "value": value, "chance": 0.25} for stage, value in (("base", 0.45),
                                                                                                         ("edited", 0.40))]
    report = {"attacks": [], "recovered": None, "scores": scores}
    rows = gate_rows({"wmdp": 0.8, "bench_wmdp": 0.7, "bench_wmdp_bio": 0.1}, report, evidence(state(20), state(0)))
    assert [(row["name"], row["value"], row["passed"]) for row in rows] == [
        ("wmdp", 0.75, False), ("bench_wmdp_bio", None, False), ("bench_wmdp", 0.75, True)]


def test_what_was_measured_is_read_back_as_it_was() -> None:
    measured = state(20)["questions"]
    assert Measured.from_json(measured.to_json()) == measured
