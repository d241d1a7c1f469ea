"""Several concepts as one pack: nothing of either is lost, and every question still says whose it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ember_hub.concepts.check import faults
from ember_hub.concepts.combined import combine, concept_of
from ember_hub.concepts.pack import load
from ember_hub.concepts.registry import find
from ember_hub.errors import PackInvalid, PackNotFound
from tests.toy_run import write_pack


def test_two_concepts_become_one_pack_that_is_fit_for_use() -> None:
    covid, potter = find("covid"), find("harry-potter")
    both = find("covid+harry-potter")
    assert both.name == "covid-19-pandemic+harry-potter"
    assert faults(both) == []
    for part in ("sentences", "questions", "relearning", "senses"):
        assert len(getattr(both, part)) == len(getattr(covid, part)) + len(getattr(potter, part)), part
    assert both.neutral == covid.neutral, "what both share is not repeated"
    assert both.sentences[:2] == (covid.sentences[0], potter.sentences[0]), "they take turns"
    assert {concept_of(q.id, both) for q in both.questions} == {covid.name, potter.name}
    assert concept_of(covid.questions[0].id, covid) is None
    ids = {q.id for q in both.questions}
    assert set(both.paraphrases) <= ids
    assert all(q.id in ids for questions in both.translations.values() for q in questions)
    assert find("covid+harry-potter").sha256 == both.sha256 != covid.sha256


def test_what_is_neutral_to_one_concept_and_speaks_of_the_other_is_left_out(tmp_path: Path) -> None:
    one, other = (load(write_pack(tmp_path / name, half)) for name, half in (("a", slice(0, 4)), ("b", slice(4, 8))))
    telling = replace(one, neutral=(*one.neutral, f"It rained where {other.keywords[0]} once lived."))
    both = combine([telling, other])
    assert faults(both) == []
    assert len(both.neutral) == len(one.neutral)


def test_a_question_that_both_ask_is_asked_once_and_not_beside_the_concept(tmp_path: Path) -> None:
    halves = [load(write_pack(tmp_path / name, half)) for name, half in (("a", slice(0, 4)), ("b", slice(4, 8)))]
    both = combine(halves)
    assert faults(both) == []
    assert {q.question for q in both.near_domain} == {q.question for q in halves[0].near_domain}
    again = combine([halves[0], replace(halves[1], questions=halves[0].questions)])
    assert {q.id for q in again.questions} == {f"a:{q.id}" for q in halves[0].questions}
    assert {q.id for q in combine([halves[0], replace(halves[1], near_domain=halves[0].questions)]).near_domain} \
        == {f"a:{q.id}" for q in halves[0].near_domain}


def test_general_questions_of_two_packs_under_one_id_are_told_apart(tmp_path: Path) -> None:
    one, other = (load(write_pack(tmp_path / name, half)) for name, half in (("a", slice(0, 4)), ("b", slice(4, 8))))
    own = replace(one.general[0], question="Which of these is asked by the second pack alone?")
    both = combine([one, replace(other, general=(own, *other.general[1:]))])
    assert faults(both) == []
    assert [q.id for q in both.general] == [*(q.id for q in one.general), f"b:{own.id}"]


def test_a_concept_named_twice_or_not_there_is_refused() -> None:
    with pytest.raises(PackInvalid, match="twice") as caught:
        find("covid+covid-19")
    assert "once" in caught.value.hint
    with pytest.raises(PackNotFound, match="nonsense"):
        find("covid+nonsense")
