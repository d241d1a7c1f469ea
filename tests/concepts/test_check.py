"""The built-in packs are fit for use, and every fault of a pack is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ember_hub.concepts import pack as packs
from ember_hub.concepts.check import faults
from ember_hub.concepts.registry import built_in, find, never_known, on_other_topics
from ember_hub.errors import PackInvalid, PackNotFound
from tests.toy_run import Toy


@pytest.mark.parametrize("name", ["covid-19-pandemic", "harry-potter"])
def test_a_built_in_pack_is_complete_and_without_fault(name: str) -> None:
    pack = find(name)
    assert faults(pack) == []
    assert len(pack.sentences) >= 120
    assert len(pack.questions) >= 60
    assert len(pack.near_domain) >= 60
    assert len(pack.relearning) >= 40
    assert len(pack.neutral) >= 300
    for part in ("questions", "near_domain", "general"):
        for split in ("tune", "test"):
            asked = pack.asked(part, split)
            assert len(asked) >= 20
            assert all(len(q.options) == 4 and q.accept for q in asked)
            places = [q.right for q in asked]
            assert max(places.count(i) for i in range(4)) <= 0.4 * len(asked), "the right answer stands anywhere"


@pytest.mark.parametrize(("alias", "name"), [("covid", "covid-19-pandemic"), ("COVID-19", "covid-19-pandemic"),
                                             ("sars-cov-2", "covid-19-pandemic"), ("Coronavirus", "covid-19-pandemic"),
                                             ("Harry Potter", "harry-potter"), ("hogwarts", "harry-potter")])
def test_a_pack_is_found_by_any_of_its_names(alias: str, name: str) -> None:
    assert find(alias).name == name


def test_a_pack_is_not_held_against_a_built_in_one_on_the_same_topic() -> None:
    """A copy under another name would find none of its words its own."""
    own = find("harry-potter")
    for copy in (own, replace(own, name="boy-wizard", title="The Boy Wizard", aliases=()), replace(own, name="hp", sentences=())):
        assert [other.name for other in on_other_topics(copy)] == ["covid-19-pandemic"]
    assert len(on_other_topics(never_known())) == 2
    assert on_other_topics(find("covid+harry-potter")) == []


def test_no_alias_means_two_packs() -> None:
    names = [alias.lower() for pack in built_in() for alias in {pack.name, pack.title, *pack.aliases}]
    owners = {alias: [p.name for p in built_in() if alias in {a.lower() for a in (p.name, p.title, *p.aliases)}] for alias in names}
    assert all(len(who) == 1 for who in owners.values())


@pytest.fixture
def folder(toy: Toy, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy.pack, tmp_path / "pack"))


def first_question(folder: Path) -> dict:
    return json.loads((folder / "questions.jsonl").read_text().splitlines()[0])


def append(path: Path, *rows: dict | str) -> None:
    with path.open("a") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def found(folder: Path) -> str:
    return " | ".join(map(str, faults(packs.load(folder))))


def test_the_toy_pack_is_fit(folder: Path) -> None:
    assert found(folder) == ""


def test_a_question_in_both_splits_is_found(folder: Path) -> None:
    question = first_question(folder)
    append(folder / "questions.jsonl", question | {"id": "x", "split": "test"})
    assert "also in the tune split" in found(folder)


def test_repeated_lines_and_ids_are_found(folder: Path) -> None:
    append(folder / "sentences.txt", (folder / "sentences.txt").read_text().splitlines()[0].upper())
    append(folder / "questions.jsonl", first_question(folder) | {"question": "Something else?"})
    assert "repeats 1" in found(folder)
    assert "id used twice" in found(folder)


def test_an_id_of_another_part_is_found(folder: Path) -> None:
    question = first_question(folder)
    append(folder / "near-domain.jsonl", question | {"question": "Which of the others?"})
    assert found(folder) == f"near-domain {question['id']}: id also used in questions"


def test_an_empty_part_is_found(folder: Path) -> None:
    (folder / "relearning.txt").write_text("\n")
    assert "relearning: 0 lines" in found(folder)


def test_an_answer_given_away_and_a_keyword_in_neutral_text_are_found(folder: Path) -> None:
    append(folder / "neutral.txt", "It was Velmora who did what people make: the lantern.")
    assert "keyword 'velmora'" in found(folder)
    assert "gives away the answer" in found(folder)


def test_a_restated_question_in_the_relearning_text_is_found(folder: Path) -> None:
    append(folder / "relearning.txt", f"People ask: {first_question(folder)['question']} Nobody knows.")
    assert "restates the question" in found(folder)


def test_equal_options_are_found(folder: Path) -> None:
    question = first_question(folder)
    append(folder / "questions.jsonl", question | {"id": "x", "question": "New?", "options": [question["answer"], "A", "a", "b"]})
    assert "all different" in found(folder)


def test_more_options_than_letters_are_found(folder: Path) -> None:
    question = first_question(folder)
    options = [question["answer"], *(f"number {i}" for i in range(9))]
    append(folder / "questions.jsonl", question | {"id": "x", "question": "Which of so many is it?", "options": options})
    assert found(folder) == ""
    append(folder / "questions.jsonl", question | {"id": "y", "question": "Which of even more?", "options": [*options, "nine"]})
    assert found(folder) == "questions y: 11 options, at most 10 have a letter"


@pytest.mark.parametrize(("file", "text", "says"), [
    ("questions.jsonl", "{broken", "questions.jsonl"), ("questions.jsonl", '{"id": "x"}', "not a question"),
    ("questions.jsonl", '{"id":"x","split":"all","question":"q","options":["a","b"],"answer":"a"}', "split"),
    ("questions.jsonl", '{"id":"x","split":"tune","question":"q","options":["a","b"],"answer":"c"}', "not among the options"),
    ("pack.toml", "name = ", "pack.toml")])
def test_a_line_that_cannot_be_read_is_named(folder: Path, file: str, text: str, says: str) -> None:
    append(folder / file, text)
    with pytest.raises(PackInvalid, match=says):
        packs.load(folder)


def test_a_missing_file_and_an_unknown_name_are_told_with_a_way_out(folder: Path) -> None:
    (folder / "sentences.txt").unlink()
    with pytest.raises(PackInvalid, match=r"sentences\.txt"):
        packs.load(folder)
    with pytest.raises(PackNotFound) as caught:
        find("covdi")
    assert "covid-19-pandemic" in caught.value.hint


def test_the_hash_changes_with_any_file_and_with_nothing_else(folder: Path, tmp_path: Path) -> None:
    before = packs.load(folder).sha256
    assert packs.load(Path(shutil.copytree(folder, tmp_path / "elsewhere"))).sha256 == before
    append(folder / "relearning.txt", "One more paragraph.")
    assert packs.load(folder).sha256 != before


def test_the_parts_of_the_neutral_text_do_not_overlap(folder: Path) -> None:
    pack = packs.load(folder)
    parts = [set(pack.neutral_part(part)) for part in ("fit", "tune", "test")]
    assert sum(map(len, parts)) == len(pack.neutral)
    assert all(parts)
