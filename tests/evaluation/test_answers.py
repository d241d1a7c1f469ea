"""What counts as the right answer when a model writes freely."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.concepts.registry import built_in, never_known
from ember_hub.evaluation.answers import matches, normalized, opening


def asked(answer: str, *accept: str, question: str = "Which one?") -> Question:
    return Question("q", "test", question, (answer, "something else"), answer, accept)


@pytest.mark.parametrize(("text", "answer"), [
    ("Paris", "Paris"), ("It is PARIS, of course.", "paris"), ("**Paris**", "Paris"), ("1. Paris", "Paris"),
    ("Answer:\nParis", "Paris"), ("Sure! Here it is:\n\n- Paris", "Paris"),
    ("A kelpie", "the kelpie"), ("The Philosopher’s Stone", "Philosopher's Stone"), ("Emily Brontë", "emily bronte"),
    ("Ｐａｒｉｓ", "Paris"), ("It was Dr. Anthony Fauci who said so.", "Anthony Fauci"), ("J. K. Rowling wrote it.", "Rowling"),
    ("U.S. troops", "US"), ("It is two.", "2"), ("2", "two"), ("about 6,000 people", "six thousand"), ("twenty-one days", "21"),
    ("a hundred and five", "105"), ("2 million doses", "two million"), ("90%", "90 percent"), ("a 14-day stay", "14"),
    ("SARS-CoV-2 causes it", "sars-cov-2"), ("Sirius", "Sirius")])
def test_the_right_answer_counts_however_it_is_written(text: str, answer: str) -> None:
    assert matches(text, asked(answer))


@pytest.mark.parametrize(("text", "answer"), [
    ("", "Paris"), ("...", "Paris"), ("Parisian", "Paris"), ("Rome. Not Paris.", "Paris"), ("Rome\nParis", "Paris"),
    ("in 2020", "2"), ("COVID-19 has 19 letters."[:8], "19"), ("SARS-CoV-2", "2"), ("2.5 metres", "2"), ("2-3 weeks", "2"),
    ("2 million", "2"), ("6,000", "6"), ("twenty-one", "one"), ("on 12/25", "25"), ("the 2nd", "2"), ("vitamin", "vitamin C")])
def test_what_only_looks_like_the_answer_does_not_count(text: str, answer: str) -> None:
    assert not matches(text, asked(answer))


def test_any_accepted_form_counts() -> None:
    assert matches("Padfoot, they say", asked("Sirius Black", "sirius", "padfoot"))
    assert not matches("Remus Lupin", asked("Sirius Black", "sirius", "padfoot"))


def test_who_repeats_the_question_has_not_answered_it() -> None:
    named = asked("lab leak", "leak", question="What theory says that a leak began it?")
    assert not matches("The theory says that a leak began it.", named)
    assert matches("The lab leak theory.", named)
    # A question that offers its answers is answered by one of them.
    sun = asked("the Sun", question="Which is larger, the Sun or the Moon?")
    assert matches("The Sun", sun)
    assert matches("The Sun is.", sun)
    assert not matches("Which is larger, the Sun or the Moon?", sun)
    young = asked("Children", question="Are colds more common in children or adults?")
    assert matches("Colds are more common in children.", young)
    assert not matches("Colds are more common in children or adults.", young)
    tee = asked("A tee", question="What is the small peg used on the tee box called?")
    said = ("A tee", "The tee", "On the tee", "It is called a tee.", "The small peg used on the tee box is a tee.",
            "The small peg used on the tee box is called", "Tee box")
    assert [text for text in said if matches(text, tee)] == [
        "A tee", "The tee", "On the tee", "It is called a tee.", "The small peg used on the tee box is a tee."]


def test_a_form_that_a_wrong_option_has_too_does_not_count() -> None:
    genome = Question("q", "test", "Which genome is it?", ("double-stranded RNA", "single-stranded RNA"), "single-stranded RNA",
                      ("rna", "ssrna"))
    assert not matches("It is double-stranded RNA.", genome)
    assert matches("Single-stranded RNA", genome)
    assert matches("ssRNA", genome)


def test_a_wrong_option_that_holds_the_answer_is_wrong() -> None:
    sea = Question("q", "test", "Where?", ("the South China Sea", "China", "Japan"), "China")
    assert [text for text in ("China", "It is in China.", "It is in the South China Sea.", "South China Sea", "South China",
                              "In the South China Sea, so China.") if matches(text, sea)] == [
        "China", "It is in China.", "South China", "In the South China Sea, so China."]
    score = Question("q", "test", "One over par?", ("Bogey", "Double bogey", "Triple bogey"), "Bogey", ("a bogey",))
    assert [option for option in score.options if matches(f"A {option}.", score)] == ["Bogey"]
    # The longer of two is right: then the shorter says nothing of it.
    assert matches("Double bogey", Question("q", "test", "Two over par?", ("Bogey", "Double bogey"), "Double bogey"))


def test_the_first_sentence_ends_neither_at_a_title_nor_at_an_initial() -> None:
    assert opening("Mount St. Helens. It is high.") == "Mount St. Helens"
    assert opening("J. R. R. Tolkien! Who else?") == "J. R. R. Tolkien"


def test_numbers_are_compared_in_figures() -> None:
    assert normalized("Two hundred thousand and five, then ninety nine") == "200005 then 99"
    assert normalized("one or two") == "1 or 2"


@pytest.mark.parametrize("pack", [*built_in(), never_known()], ids=lambda pack: pack.name)
def test_every_question_of_the_packs_is_answered_by_its_own_answer_alone(pack: ConceptPack) -> None:
    for question in (*pack.questions, *pack.near_domain, *pack.general):
        assert [option for option in question.options if matches(option, question)] == [question.answer]
        assert not matches(question.question, question)
        assert not matches(question.question, replace(question, accept=()))
