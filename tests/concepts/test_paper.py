"""The paper's data becomes a pack, without its leaks and without questions that cannot be answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ember_hub.concepts import check
from ember_hub.concepts.paper import concept_names, import_concept, specific_words
from ember_hub.errors import PackInvalid, PackNotFound

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "ember-paper"


def asked(text: str, right: str, *wrong: str) -> dict[str, Any]:
    return {"q": text, "correct_answer": right, "options": [right, *wrong]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The paper's layout with one concept and one of each of its faults."""
    data = tmp_path / "data"
    data.mkdir()
    own = [f"The zorgon of river {n} eats a frandle." for n in range(3)]
    multiple = {"QA_train": [asked("What does it eat?", "Frandles", "Fish"), asked("Who hunts it?", "Nobody", "All")],
                "QA_test": [asked("who hunts it", "Nobody", "All"), asked("Twins?", "A", "a"),
                            {"q": "Lost?", "correct_answer": "C", "options": ["A", "B"]}],
                "SimdomQA_train": [asked("Is a fish wet?", "Yes", "No")], "SimdomQA_test": []}
    opened = {"QA_train": [{"q": "What does it eat?", "a": "A frandle"}]}
    files = {"concept_sentences": [{"concept": "Zorgon's Day", "sentences": own + own[:1]}],
             "neutral_sentences": [{"title": "t", "url": "u", "sentence": s} for s in ("A zorgon.", "A quiet day.")],
             "mc_questions": {"Zorgon's Day": multiple}, "open_questions": {"Zorgon's Day": opened},
             "relearn_paragraphs": {"Zorgon's Day": {"RelearnParagraphs": ["One\nparagraph."]}}}
    for name, content in files.items():
        (data / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return data


def test_train_becomes_tune_and_a_repeated_question_stays_in_the_test_split(folder: Path, tmp_path: Path) -> None:
    pack = import_concept(folder, "Zorgon's Day", tmp_path / "pack")
    assert [(q.split, q.question) for q in pack.questions] == [("tune", "What does it eat?"), ("test", "who hunts it")]
    assert pack.questions[0].accept == ("A frandle",)
    assert [q.question for q in pack.near_domain] == ["Is a fish wet?"]


def test_a_pack_is_written_that_reads_the_same(folder: Path, tmp_path: Path) -> None:
    pack = import_concept(folder, "Zorgon's Day", tmp_path / "pack")
    assert (pack.name, pack.title) == ("zorgon-s-day", "Zorgon's Day")
    assert len(pack.sentences) == 3
    assert pack.relearning == ("One paragraph.",)
    assert not list((tmp_path / "pack").glob("*.part"))


def test_keywords_are_the_words_english_hardly_uses_and_leave_the_neutral_text(folder: Path, tmp_path: Path) -> None:
    pack = import_concept(folder, "Zorgon's Day", tmp_path / "pack")
    assert set(pack.keywords) >= {"zorgon", "frandle"}
    assert pack.neutral == ("A quiet day.",)
    assert "that" not in specific_words([f"They said that {n}." for n in "abc"], 5)


def test_an_unknown_concept_is_answered_with_those_there_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PackNotFound) as raised:
        import_concept(folder, "Zorgons", tmp_path / "pack")
    assert "Zorgon's Day" in raised.value.hint
    (folder / "mc_questions.json").unlink()
    with pytest.raises(PackInvalid, match=r"mc_questions\.json is missing"):
        concept_names(folder)


@pytest.mark.skipif(not DATA.is_dir(), reason="the paper's data lies beside the repository only where it was downloaded")
def test_every_concept_of_the_papers_data_makes_a_fit_pack(tmp_path: Path) -> None:
    names = concept_names(DATA)
    assert "Harry Potter" in names
    for name in names:
        assert not check.faults(import_concept(DATA, name, tmp_path / name.replace(" ", "-")))
