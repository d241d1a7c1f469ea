"""Which letter an answer means, and a model that has to write it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ember_hub.concepts.pack import load as load_pack
from ember_hub.concepts.prompts import LETTERS, letter_prompt
from ember_hub.evaluation.evaluations.letters import LetterGeneration, meant
from ember_hub.evaluation.generation import prompt
from ember_hub.evaluation.presentation import rotations
from ember_hub.evaluation.subject import Subject
from ember_hub.source.load import load
from tests.evaluation.subjects import subject, weights
from tests.evaluation.taught import forgets, taught
from tests.toy_run import Toy

SHIFT = rotations("measure", 4)[0]
OPTIONS = ("A wizard", "Ron Weasley", "China", "South China Sea")
WRITERS = ("E. M. Forster", "W. H. Auden", "A. A. Milne", "D. H. Lawrence")


@pytest.mark.parametrize(("text", "letter"), [
    ("A", "A"), ("A.", "A"), ("(A)", "A"), ("A)", "A"), ("'A'", "A"), ("**C**", "C"), ("[D]", "D"), ("$\\boxed{B}$", "B"),
    ("Answer: A", "A"), ("The answer is B", "B"), ("The right answer to this is (D).", "D"), ("Option B is", "B"),
    ("The correct letter is: **A**", "A"), ("Answer:\nB", "B"), ("A is right", "A"), ("A, because", "A"), ("D - the sea", "D"),
    ("B. Ron Weasley", "B"), ("B: Ron", "B"), ("B\n\nQuestion: Who", "B"), ("b", "B"), ("c)", "C"), ("answer: d", "D"),
    ("A wizard did it", "A"), ("a wizard", "A"), ("It was Ron Weasley.", "B"), ("B Ron Weasley", "B"), ("The South China Sea", "D"),
    ("It is China", "C"), ("A are", "A"), ("A, and B is wrong", "A"), ("A is incorrect. The answer is B.", "B"),
    ("A, because B and C are", "A")])
def test_a_letter_is_read_as_a_person_reads_it(text: str, letter: str) -> None:
    assert meant(text, OPTIONS) == LETTERS.index(letter)


@pytest.mark.parametrize("text", [
    "", "A witch did it", "A man, a plan", "The answer is a", "The answer is A witch", "I think so", "E", "Answer: E", "B-cells",
    "A.M.", "A or B", "C, D", "A.\nB.\nC", "A. A wizard\nB. Ron", "A wizard or Ron Weasley",
    "The answer is not B but C", "Weasley", "A, B and C", "A, C or D", "A, and B", "A) and B)", "**A**, **B** and **C**",
    "A, B and C are right", "A and B", "A is incorrect", "Option A is wrong", "A is not right, B is", "**A** isn't right"])
def test_what_names_no_option_or_several_is_no_answer(text: str) -> None:
    assert meant(text, OPTIONS) is None


@pytest.mark.parametrize(("text", "index"), [
    ("A. A. Milne", 2), ("The answer is A. A. Milne.", 2), ("Sure.\nThe answer is A. A. Milne", 2), ("D. H. Lawrence", 3),
    ("A. E. M. Forster", 0), ("A. A. A. Milne", 0), ("C. A. A. Milne", 2), ("D. D. H. Law", 3), ("A.", 0), ("D", 3),
    ("A. A. Milne or D. H. Lawrence", None)])
def test_an_initial_is_no_letter(text: str, index: int | None) -> None:
    assert meant(text, WRITERS) == index


def test_a_letter_with_its_options_text_is_that_letter_though_both_together_begin_another_option() -> None:
    worms = ("elegans was a name", "Ascaris", "Trichinella", "C. elegans")
    assert meant("C. elegans", worms) == 3
    assert meant("The answer is C. elegans, of course", worms) == 3
    assert meant("A. Big Ben", ("Big Ben", "Tower", "A Big Ben", "Bridge")) == 0
    assert meant("A. Big", ("Big Ben", "Tower", "A Big", "Bridge")) == 0
    assert meant("A. B and C", ("B and C", "B alone", "C alone", "neither")) == 0


def test_options_that_are_letters_themselves_are_named_by_their_place() -> None:
    assert meant("C", ("C", "D", "A", "K")) == 2
    assert meant("B. D", ("C", "D", "A", "K")) == 1
    assert meant("K", ("C", "D", "A", "K")) == 3


@pytest.fixture(scope="module")
def knows(toy: Toy) -> Subject:
    """The toy, taught to write the letter of the right option."""
    model, pack = load(toy.model), load_pack(toy.pack)
    answers = {}
    for question in (*pack.asked("questions", "test"), *pack.asked("near_domain", "test")):
        text, options = letter_prompt(question, SHIFT)
        answers[prompt(model.tokenizer, text, text)] = LETTERS[options.index(question.answer)]
    return subject(taught(model, answers.items(), steps=80), pack)


def test_the_letter_of_an_erased_concept_is_lost_and_that_of_its_neighbour_stays(knows: Subject) -> None:
    before = weights(knows.loaded)
    states = {name: LetterGeneration().measure(state) for name, state in (("base", knows), ("edited", _erased(knows)))}
    accuracy = {name: {r.name: r.mean for r in measured.readings} for name, measured in states.items()}
    assert accuracy["base"] == {"letters_concept": 1.0, "letters_near_domain": 1.0, "letters_valid": 1.0}
    assert accuracy["edited"]["letters_concept"] <= 0.5
    assert accuracy["edited"]["letters_near_domain"] >= 0.75
    assert {r.name: r.chance for r in states["base"].readings} == {"letters_concept": 0.25, "letters_near_domain": 0.25,
                                                                   "letters_valid": None}
    assert all(torch.equal(p, before[name]) for name, p in knows.loaded.model.named_parameters())


def test_only_known_questions_are_asked_and_no_more_than_wanted(knows: Subject) -> None:
    known = dict(knows.syllabus.known["test"]) | {"concept": frozenset({"c0b", "c5b", "c6b"}), "near_domain": frozenset()}
    few = _with_known(knows, known)
    assert [row["id"] for row in LetterGeneration().measure(few).samples] == ["c0b", "c5b", "c6b"]
    measured = LetterGeneration(questions=2).measure(few)
    assert [row["id"] for row in measured.samples] == ["c0b", "c5b"]
    assert [r.name for r in measured.readings] == ["letters_concept", "letters_valid"]
    assert LetterGeneration(questions=2).cost(few).written < LetterGeneration().cost(few).written


def test_a_model_that_writes_no_letter_has_no_valid_answer(toy: Toy) -> None:
    model, pack = load(toy.model), load_pack(toy.pack)
    prompts = [prompt(model.tokenizer, text, text) for question in pack.asked("questions", "test")
               for text, _ in [letter_prompt(question, SHIFT)]]
    silent = taught(model, [(put, "") for put in prompts])
    measured = LetterGeneration().measure(_with_known(subject(silent, pack), {"concept": frozenset({"c0b", "c1b"}),
                                                                             "near_domain": frozenset()}))
    assert {r.name: r.mean for r in measured.readings} == {"letters_concept": 0.0, "letters_valid": 0.0}
    assert all(row["chosen"] is None and not row["verdict"] for row in measured.samples)


def _erased(state: Subject) -> Subject:
    return replace(state, edit=forgets(state.loaded))


def _with_known(state: Subject, known: dict) -> Subject:
    return replace(state, syllabus=replace(state.syllabus, known={**state.syllabus.known, "test": known}))
