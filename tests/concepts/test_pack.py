"""Packs as they are read from a folder: the files that a pack may have or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ember_hub.concepts.pack import load
from ember_hub.errors import PackInvalid
from tests.toy_run import write_pack

GERMAN = {"id": "c0b", "language": "de", "question": "Wo lebte Velmora? ", "options": ["in Ashford", "in Denham"],
          "answer": "in Ashford", "accept": ["ashford"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pack(tmp_path / "toy-inventors")


def write(path: Path, *rows: object) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def test_a_pack_without_the_optional_files_has_no_other_ways_of_asking(folder: Path) -> None:
    pack = load(folder)
    assert pack.translations == pack.paraphrases == {}


def test_translations_and_paraphrases_take_their_split_from_the_question_and_change_the_packs_hash(folder: Path) -> None:
    bare = load(folder)
    write(folder / "translations.jsonl", GERMAN, "", GERMAN | {"language": "es"}, GERMAN | {"id": "c1a"})
    translated = load(folder)
    write(folder / "paraphrases.jsonl", {"id": "c0b", "question": " Name Velmora's home. "})
    both = load(folder)
    assert {language: [q.id for q in questions] for language, questions in both.translations.items()} == {
        "de": ["c0b", "c1a"], "es": ["c0b"]}
    first, second = both.translations["de"]
    assert (first.question, first.options, first.right) == ("Wo lebte Velmora?", ("in Ashford", "in Denham"), 0)
    assert first.accept == ("ashford",)
    assert (first.split, second.split) == ("test", "tune")
    assert both.paraphrases == {"c0b": "Name Velmora's home."}
    assert len({bare.sha256, translated.sha256, both.sha256}) == 3
    for name in ("translations", "paraphrases"):
        (folder / f"{name}.jsonl").unlink()
    assert load(folder) == bare


@pytest.mark.parametrize(("name", "row", "message"), [
    ("translations", "{", "is about no question of the pack"),
    ("translations", GERMAN | {"id": "c99"}, "is about no question of the pack"),
    ("translations", [1], "is about no question of the pack"),
    ("translations", {"id": "c0b", "language": "de", "question": "Wo?"}, "not a translation"),
    ("translations", GERMAN | {"language": 49}, "not a translation"),
    ("translations", GERMAN | {"answer": "Ashford"}, "the answer 'Ashford' is not among the options"),
    ("translations", GERMAN, "c0b in 'de' a second time"),
    ("paraphrases", {"id": "c0b", "question": " "}, "no question"),
    ("paraphrases", {"question": "Where?"}, "is about no question of the pack"),
    ("paraphrases", {"id": "c1b", "question": "Where?"}, "c1b a second time"),
])
def test_a_line_that_cannot_be_used_is_named(folder: Path, name: str, row: object, message: str) -> None:
    good = GERMAN if name == "translations" else {"id": "c1b", "question": "Where?"}
    write(folder / f"{name}.jsonl", good, row)
    with pytest.raises(PackInvalid) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / name}.jsonl:2: ")
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(("key", "value"), [("accept", "Ian a"), ("accept", [3]), ("accept", None), ("options", [1997, 1998]),
                                            ("options", "ab"), ("options", {"in Ashford": 1}), ("options", ["in Ashford", " "])])
@pytest.mark.parametrize("name", ["questions", "translations"])
def test_options_and_accepted_forms_are_lists_of_texts(folder: Path, name: str, key: str, value: object) -> None:
    write(folder / f"{name}.jsonl", *(folder / "questions.jsonl").read_text().splitlines() if name == "questions" else (),
          GERMAN | {"split": "test", key: value})
    with pytest.raises(PackInvalid, match=rf"{name}\.jsonl:\d+: {key} is not a list of texts") as caught:
        load(folder)
    assert f'"{key}": ["...", "..."]' in caught.value.hint
