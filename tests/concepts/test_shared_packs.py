"""The never-known pack can be taught and cannot be guessed; translations and paraphrases are of the test questions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ember_hub.concepts.check import faults, normalized
from ember_hub.concepts.pack import SHARED, ConceptPack, Question, load
from ember_hub.concepts.registry import built_in

LANGUAGES = ("de", "es")


@pytest.fixture(scope="module")
def never() -> ConceptPack:
    return load(SHARED / "never-known")


@pytest.fixture(params=["covid-19-pandemic", "harry-potter"])
def pack(request: pytest.FixtureRequest) -> ConceptPack:
    return load(SHARED.parent / request.param)


@pytest.fixture(params=["covid-19-pandemic", "harry-potter", "shared/never-known"])
def translated(request: pytest.FixtureRequest) -> ConceptPack:
    return load(SHARED.parent / request.param)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_id(pack: ConceptPack) -> dict[str, Question]:
    """The test questions, in the order of the pack."""
    return {q.id: q for q in pack.asked("questions", "test")}


def holds(text: str, phrase: str) -> bool:
    return f" {normalized(phrase)} " in f" {normalized(text)} "


def own_words(pack: ConceptPack) -> dict[str, set[str]]:
    """For each question the words that hardly any other question has."""
    words = {q.id: {w for w in normalized(q.question).split() if len(w) > 3} for q in pack.questions}
    shared = Counter(w for of in words.values() for w in of)
    return {name: {w for w in of if shared[w] <= 6} for name, of in words.items()}


def test_the_never_known_pack_is_without_fault_and_no_concept_to_erase(never: ConceptPack) -> None:
    assert faults(never) == []
    assert [len(never.asked("questions", split)) for split in ("tune", "test")] == [20, 40]
    assert never.name not in [pack.name for pack in built_in()]
    assert all(len(q.options) == 4 and q.answer.lower() in q.accept for q in never.questions)


def test_every_fact_of_the_never_known_world_can_be_learned_from_its_paragraphs(never: ConceptPack) -> None:
    words = own_words(never)
    for q in never.questions:
        told = [p for p in never.relearning if holds(p, q.answer) and words[q.id] & set(normalized(p).split())]
        assert told, f"{q.id}: {q.question} {q.answer}"


def test_nothing_but_chance_tells_the_never_known_answers(never: ConceptPack) -> None:
    for split in ("tune", "test"):
        asked = never.asked("questions", split)
        assert Counter(q.right for q in asked) == dict.fromkeys(range(4), len(asked) // 4)
    for end in (-1, 0):
        lengths = [(len(q.answer), sorted(map(len, q.options))) for q in never.questions]
        alone = [own for own, all_of in lengths if own == all_of[end] and all_of.count(own) == 1]
        assert len(alone) < len(lengths) / 4, "the right option is seldom the only longest or the only shortest"
    for q in never.questions:
        echoed = set(normalized(q.answer).split()) & set(normalized(q.question).split())
        assert all(len(word) <= 3 for word in echoed), f"{q.id} gives its answer away"


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_test_question_is_translated_once_with_its_options_in_order(translated: ConceptPack, language: str) -> None:
    asked = by_id(translated)
    found = [row for row in rows(translated.folder / "translations.jsonl") if row["language"] == language]
    assert [row["id"] for row in found] == list(asked)
    for row in found:
        q = asked[row["id"]]
        assert len(row["options"]) == len({normalized(o) for o in row["options"]}) == len(q.options)
        assert row["options"].index(row["answer"]) == q.right
        assert row["answer"].lower() in row["accept"]
        assert normalized(row["question"]) != normalized(q.question)


def test_there_are_no_translations_into_other_languages(translated: ConceptPack) -> None:
    assert {row["language"] for row in rows(translated.folder / "translations.jsonl")} == set(LANGUAGES)


def test_each_test_question_has_one_paraphrase_that_names_none_of_its_options(pack: ConceptPack) -> None:
    asked = by_id(pack)
    found = rows(pack.folder / "paraphrases.jsonl")
    assert [row["id"] for row in found] == list(asked)
    for row in found:
        q = asked[row["id"]]
        assert not [o for o in q.options if holds(row["question"], o)], row["question"]
        before, after = (set(normalized(text).split()) for text in (q.question, row["question"]))
        assert len(before & after) < len(before | after) / 2, "other words, not a few replaced"


def test_most_paraphrases_do_without_the_concepts_names(pack: ConceptPack) -> None:
    def named(texts: list[str]) -> int:
        return sum(any(holds(text, alias) for alias in (pack.title, *pack.aliases)) for text in texts)

    assert named([q.question for q in by_id(pack).values()]) > 50
    assert named([row["question"] for row in rows(pack.folder / "paraphrases.jsonl")]) <= 1
