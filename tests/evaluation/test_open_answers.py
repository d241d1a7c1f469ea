"""Open questions: what a tiny model says freely before and after it lost the concept, and who judges it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ember_hub.concepts.pack import load as load_pack
from ember_hub.evaluation.evaluations.open_answers import OpenAnswers, open_prompts, reply
from ember_hub.evaluation.generation import Written
from ember_hub.evaluation.subject import Subject
from ember_hub.source.load import load
from tests.evaluation.judge_server import JudgeServer, Reply, says
from tests.evaluation.subjects import subject, weights
from tests.evaluation.taught import forgets, taught
from tests.toy_run import Toy


def contrary(_: int, request: str) -> Reply:
    """A judge to whom the right answer is wrong, and any other right."""
    told = dict(line.split(": ", 1) for line in request.splitlines() if ": " in line)
    return says("0" if told["Answer to be judged"] == told["Right answer"] else "1")


@pytest.fixture(scope="module")
def knows(toy: Toy) -> Subject:
    """The toy, taught to answer its questions on the concept and near it, and none on the world."""
    model, pack = load(toy.model), load_pack(toy.pack)
    asked = (*pack.asked("questions", "test"), *pack.asked("near_domain", "test"))
    prompts = open_prompts(asked, pack, model.tokenizer)
    return subject(taught(model, [(p, q.answer) for p, q in zip(prompts, asked, strict=True)], steps=60), pack)


def test_the_concepts_answers_go_and_its_neighbours_stay(knows: Subject) -> None:
    before = weights(knows.loaded)
    base, edited = (OpenAnswers().measure(state) for state in (knows, replace(knows, edit=forgets(knows.loaded))))
    right = {name: {r.name: r.mean for r in measured.readings} for name, measured in (("base", base), ("edited", edited))}
    assert right["base"]["open_concept"] == right["base"]["open_near_domain"] == 1.0
    assert right["edited"]["open_concept"] <= 0.5
    assert right["edited"]["open_near_domain"] >= 0.75
    assert all(r.chance == 0.0 and r.unit == "accuracy" for r in base.readings)
    assert all(torch.equal(p, before[name]) for name, p in knows.loaded.model.named_parameters())
    first = base.samples[0]
    assert (first["id"], first["part"], first["answer"], first["expected"], first["verdict"]) == (
        "c0b", "concept", "Ashford", "Ashford", True)
    assert first["question"] in first["prompt"]


def test_known_questions_come_first_and_no_more_are_asked_than_wanted(knows: Subject) -> None:
    known = {"concept": frozenset({"c7b"}), "near_domain": frozenset({"n2b", "n3b"}), "general": frozenset()}
    few = replace(knows, syllabus=replace(knows.syllabus, known={**knows.syllabus.known, "test": known}))
    asked = [row["id"] for row in OpenAnswers(questions=2).measure(few).samples]
    assert asked == ["c7b", "c0b", "n2b", "n3b", "g0b", "g1b"]


def test_a_judge_may_decide_and_then_the_numbers_are_not_reproducible(knows: Subject) -> None:
    with JudgeServer(contrary) as server:
        measured = (asking := OpenAnswers(judge=server.url, judge_model="j")).measure(knows)
    assert [row["verdict"] for row in measured.samples] == [not row["verdict"] for row in OpenAnswers().measure(knows).samples]
    assert measured.details == {"unrated": 0}
    with JudgeServer(lambda _, request: says("No comment." if "Ashford" in request else "1")) as server:
        measured = OpenAnswers(judge=server.url, judge_model="j").measure(knows)
    silent = [row for row in measured.samples if "Ashford" in (row["expected"], row["answer"]) or not row["answer"]]
    assert [row for row in measured.samples if not row["verdict"]] == silent
    assert 0 < measured.details["unrated"] <= len(silent)
    assert OpenAnswers().reproducible
    assert not asking.reproducible


def test_an_invented_question_is_no_answer_where_nothing_else_was_written_either() -> None:
    assert reply(Written((), "Hedwig\nQ: What is a lantern?\nA: A lamp")) == "Hedwig"
    assert reply(Written((), "Q: What is the name of the owl, Hedwig?")) == ""


def test_a_model_without_a_template_is_shown_answers_to_questions_that_are_never_asked(knows: Subject, toy: Toy) -> None:
    tokenizer = load(toy.model).tokenizer
    tokenizer.chat_template = None
    shown, asked = knows.pack.asked("general", "tune")[0], knows.pack.asked("questions", "test")[0]
    put, = open_prompts([asked], knows.pack, tokenizer)
    assert put.text.startswith(f"Q: {shown.question}\nA: {shown.answer}\n\n")
    assert put.text.endswith(f"Q: {asked.question}\nA:")
    assert reply(Written((), "Ashford\n\nQ: and where did I live?")) == "Ashford"
