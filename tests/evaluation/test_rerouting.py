"""The same question in other words: what changes in it, what stays, and what it reaches behind an edit of embedding rows."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.concepts.pack import load as load_pack
from ember_hub.edits.edit import Edit, ReplacedRows
from ember_hub.evaluation.attacks.prompting import put
from ember_hub.evaluation.attacks.rerouting import Alias, Paraphrase, Respelling, Script, Spaced, Translation, Typo, reworded
from ember_hub.evaluation.presentation import pose
from ember_hub.evaluation.subject import Subject
from ember_hub.source.load import LoadedModel, load
from tests.evaluation.subjects import subject, weights
from tests.toy_run import Toy

ASKED = "When did the Velmora plague reach the towns near Velmora?"


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LoadedModel:
    return load(llama_folder)


@pytest.fixture(scope="module")
def pack(toy: Toy) -> ConceptPack:
    """Six questions on a plague with several names, and one on nothing in particular."""
    asked = (ASKED, "Who ended the Velmora plague?", "Where are Plague Doctors trained?",
             "What did the Velmora Plague Doctors carry?", "Which year follows Velmora's second year?",
             "How many died of the velmora plague?")
    options = ("in spring", "in Velmora", "in autumn", "in winter")
    questions = tuple(Question(f"q{i}", "test", text, options, "in autumn") for i, text in enumerate((*asked, "What is a river?")))
    return replace(load_pack(toy.pack), title="Velmora plague", aliases=("velmora", "the red fever", "plague of Velmora", "VP-9"),
                   keywords=("plague doctor",), questions=questions, paraphrases={"q1": "Name whoever put an end to it."})


@pytest.mark.parametrize(("attack", "expected"), [
    (Typo(), "When did the Velmoar plageu reach the towns near Velmoar?"),
    (Spaced(), "When did the V-e-l-m-o-r-a p-l-a-g-u-e reach the towns near V-e-l-m-o-r-a?"),
    (Script(), "When did the Vеӏmоrа рӏаgυе reach the towns near Vеӏmоrа?"),
], ids=["typo", "spaced", "script"])
def test_only_the_words_of_the_concept_are_respelled(model: LoadedModel, pack: ConceptPack, attack: Respelling, expected: str
                                                     ) -> None:
    questions, _ = attack.rerouted(model, subject(model, pack))
    assert questions[0].question == expected
    assert [q.id for q in questions] == ["q0", "q1", "q2", "q3", "q4", "q5"], "the seventh has no such word"
    assert all(q.options == pack.questions[0].options for q in questions), "options that are scored keep their spelling"


def test_a_typo_swaps_two_different_letters_and_keeps_the_first() -> None:
    words = {"Harry": "Haryr", "COVID": "COVDI", "rill": "rlil", "Otto": "Otot", "Pfizer": "Pfizre", "the": "the", "mmmm": "mmmm"}
    assert {word: Typo().respelled(word) for word in words} == words


def test_a_word_with_an_edited_row_counts_as_the_concepts_unless_every_row_is_edited(model: LoadedModel, pack: ConceptPack) -> None:
    row = model.tokenizer(" near", add_special_tokens=False).input_ids[-1]
    near, usual, all_rows = (Typo().rerouted(model, subject(model, pack, tokens=tokens))[0][0].question
                             for tokens in ((row,), (), tuple(range(768))))
    assert " naer " not in usual == all_rows
    assert near != usual
    assert re.sub(r"\w+", lambda m: "near" if m[0] == Typo().respelled("near") else m[0], near) == usual


def test_lettered_options_are_all_respelled_alike_and_the_right_one_stays_right(model: LoadedModel, pack: ConceptPack) -> None:
    for q in Spaced().rerouted(model, subject(model, pack, format="letter"))[0]:
        assert q.options == ("i-n s-p-r-i-n-g", "i-n V-e-l-m-o-r-a", "i-n a-u-t-u-m-n", "i-n w-i-n-t-e-r")
        assert q.answer == "i-n a-u-t-u-m-n"


def test_every_name_gives_way_to_another_one(model: LoadedModel, pack: ConceptPack) -> None:
    questions, details = Alias(names=1).rerouted(model, subject(model, pack))
    assert [q.question for q in questions] == [
        "When did the red fever reach the towns near the red fever?", "Who ended the red fever?",
        "What did the red fever Doctors carry?", "Which year follows the red fever's second year?",
        "How many died of the red fever?"]
    assert details["chosen"] == "the red fever"
    assert Alias().missing(pack) is None
    assert Alias().missing(replace(pack, aliases=("one",))) == "the pack has 1 aliases, two are needed"


def test_names_with_edited_rows_are_tried_last(model: LoadedModel, pack: ConceptPack) -> None:
    fever = tuple(model.tokenizer(" the red fever", add_special_tokens=False).input_ids)
    _, details = Alias(names=2).rerouted(model, subject(model, pack, tokens=fever))
    assert "the red fever" not in details["tune"]
    assert len(details["tune"]) == 2


def test_a_question_without_a_paraphrase_is_reworded_by_rule(model: LoadedModel, pack: ConceptPack) -> None:
    questions, details = Paraphrase().rerouted(model, subject(model, pack))
    assert [q.question for q in questions[:3]] == [
        "I would like to know this: at what time did the Velmora plague reach the towns near Velmora? Please tell me.",
        "Name whoever put an end to it.", "I would like to know this: in what place are Plague Doctors trained? Please tell me."]
    assert details["paraphrased_by_pack"] == ["q1"]
    assert reworded("NATO was founded when?") == "I would like to know this: NATO was founded when? Please tell me."


def test_too_few_changed_questions_are_not_measured(model: LoadedModel, pack: ConceptPack) -> None:
    measured = Typo().measure(subject(model, replace(pack, questions=pack.questions[3:])))
    assert not measured.readings
    assert measured.details == {"reason": "only 3 of 4 known questions can be asked so, 5 are needed"}


def test_translations_count_with_their_mean_over_the_languages(model: LoadedModel, pack: ConceptPack) -> None:
    german, spanish = ([replace(q, question=f"{word} {q.question}", options=q.options[::-1]) for q in pack.questions[:count]]
                       for word, count in (("Sag:", 6), ("Dime:", 5)))
    state = subject(model, replace(pack, translations={"de": tuple(german), "es": tuple(spanish)}))
    measured = Translation().measure(state)
    alone = {q.id: put(model, state, [q])[0] for q in german}, {q.id: put(model, state, [q])[0] for q in spanish}
    for reading, what in zip(measured.readings, ("accuracy", "probability"), strict=True):
        expected = {i: sum(values) / len(values) for i in alone[0]
                    for values in [[getattr(a[i], what) for a in alone if i in a]]}
        assert reading.values == pytest.approx(expected, abs=1e-4)
    assert {language: row["asked"] for language, row in measured.details["languages"].items()} == {"de": 6, "es": 5}
    assert Translation().missing(pack) == "the pack has no translations.jsonl"


def test_what_an_edit_of_rows_hides_is_reached_by_another_spelling(toy: Toy) -> None:
    loaded, pack = load(toy.model), load_pack(toy.pack)
    base = subject(replace(loaded, model=_reads_typos(subject(loaded, pack))), pack)
    before = weights(base.loaded)
    names = loaded.tokenizer(" " + " ".join(pack.keywords), add_special_tokens=False).input_ids
    rows = torch.tensor(sorted({i for i in names if len(loaded.tokenizer.decode(i).strip()) > 2}))
    edit = Edit({loaded.anatomy.embedding: ReplacedRows(rows, torch.zeros(len(rows), loaded.anatomy.d_model))})
    edited = subject(base.loaded, pack, edit, tuple(rows.tolist()))
    with edited.state():
        plain = put(base.loaded, edited, edited.known())
    measured = Typo().measure(edited)
    assert sum(a.accuracy for a in plain) / len(plain) <= 0.4
    assert measured.readings[0].mean >= 0.75
    assert measured.details["edited_rows_after"] < 0.3 * measured.details["edited_rows_before"]
    assert all(torch.equal(p, before[name]) for name, p in base.loaded.model.named_parameters())


def _reads_typos(state: Subject) -> torch.nn.Module:
    """The toy model, taught to read its names with typing errors, as large models do by themselves."""
    questions = [*state.known(), *Typo().rerouted(state.loaded, state)[0]]
    texts = [p.texts[p.right].ids for p in pose(questions, "answer", "measure", state.loaded.tokenizer)]
    width = max(map(len, texts))
    ids = torch.tensor([[*t, *[0] * (width - len(t))] for t in texts])
    labels = torch.tensor([[*t, *[-100] * (width - len(t))] for t in texts])
    model = copy.deepcopy(state.loaded.model).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.requires_grad_(False)
