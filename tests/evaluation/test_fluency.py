"""Instructions: what counts as following them, and what broken language looks like in numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from ember_hub.concepts.pack import load as load_pack
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.errors import EvaluationError, JudgeUnavailable
from ember_hub.evaluation.evaluations.fluency import MARK, Instructions, repetition
from ember_hub.evaluation.evaluations.instructions import EVERYDAY
from ember_hub.evaluation.generation import prompt
from ember_hub.evaluation.reading import Measured
from ember_hub.evaluation.subject import Subject
from ember_hub.source.load import load
from tests.evaluation.judge_server import JudgeServer, Reply, says
from tests.evaluation.subjects import subject, weights
from tests.evaluation.taught import taught
from tests.toy_run import Toy

ANSWERS: Mapping[str, tuple[str, str]] = {
    "List three colours": ("Red, green, and blue.", "Colours are what the eye sees"),
    "List four fruits": ("apples, pears, plums, figs", "apples, pears"),
    "Name two days": ("Saturday and Sunday", "Monday and Sunday"),
    "what is the opposite": ("Cold.", "The opposite of hot is cold."),
    "what colour is grass": ("green", "Grass is usually green."),
    "is water wet": ("Yes, it is.", "Water is wet."),
    "about a cat": ("The cat sleeps.", "The dog sleeps."),
    "about the sea": ("The sea is calm tonight.", "Calm"),
    "Repeat this word": ("apple apple apple", "apple apple apple apple"),
    "Count from one": ("1, 2, 3, 4, 5", "5, 4, 3, 2, 1"),
    "the word HELLO": ("hello", "HELLO"),
    "the word river": ("RIVER", "river"),
    "Write a question": ("How long have you lived here?", "Hello, neighbour."),
    "three tips": ("1. Rest.\n2. Read.\n3. Breathe.", "Rest, read and breathe."),
    "cup of tea": ("1) Boil water.\n2) Pour it.", "Boil water and pour it."),
    "begins with the word Please": ("Please sit down.", "Sit down, please."),
    "thank-you note": ("Thank you for the book. I loved it.", "The book was long."),
    "Complete the sentence": ("umbrella with me.", "apple with me."),
    "two plus three": ("5", "Four"),
    "two-line poem": ("The moon is bright,\nit lights the night.", "The moon is bright."),
    "Say goodbye": ("Goodbye, and come again!", "Come in and sit down."),
    "Which is bigger": ("An elephant.", "A mouse."),
    "Write the alphabet": ("A, B, C, D, E", "E, D, C, B, A"),
    "shopping list": ("- bread\n- milk\n- eggs", "- bread\n- butter"),
}


def test_every_built_in_instruction_knows_a_good_answer_from_a_bad_one() -> None:
    asked = {part: [i for i in EVERYDAY if part in i.text] for part in ANSWERS}
    assert all(len(found) == 1 for found in asked.values())
    assert len(ANSWERS) == len(EVERYDAY) == len({i.id for i in EVERYDAY}) == 24
    for part, (good, bad) in ANSWERS.items():
        check = asked[part][0].is_followed
        assert check is not None
        assert (check(good), check(bad), check("")) == (True, False, False), part


def test_repetition_is_the_share_of_what_stood_there_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0
    assert repetition([1, 2, 3, 1, 2, 3]) == 0.25
    assert repetition([7] * 50) == pytest.approx(47 / 48)
    assert repetition([1, 2]) == repetition([]) == 0


@pytest.fixture(scope="module")
def obeys(toy: Toy) -> Subject:
    """The toy, taught a good answer to some of the instructions, and to say nothing to one."""
    model, pack = load(toy.model), load_pack(toy.pack)
    texts = {part: next(i.text for i in EVERYDAY if part in i.text) for part in ANSWERS}
    prompts = {part: prompt(model.tokenizer, text, text) for part, text in texts.items()}
    pairs = [(prompts[part], ANSWERS[part][0]) for part in [*ANSWERS][:7]]
    return subject(taught(model, [*pairs, (prompts["Which is bigger"], "")], steps=80), pack)


def means(measured: Measured) -> dict[str, float]:
    return {r.name.removeprefix("instructions_"): r.mean for r in measured.readings}


def test_what_a_model_follows_leaves_empty_and_repeats_is_counted(obeys: Subject) -> None:
    before = weights(obeys.loaded)
    measured = Instructions().measure(obeys)
    rows = {row["instruction"]: row for row in measured.samples}
    told = [rows[i.text] for i in EVERYDAY[:7]]
    assert all(row["verdict"] is True and row["repetition"] < 0.2 and row["base_loss"] < 1 for row in told)
    silent = next(row for text, row in rows.items() if "bigger" in text)
    assert (silent["answer"], silent["empty"], silent["verdict"], silent["base_loss"]) == ("", True, False, None)
    found = {r.name: r for r in measured.readings}
    assert list(found) == ["instructions_followed", "instructions_repetition", "instructions_base_loss", "instructions_empty"]
    assert [r.better for r in found.values()] == ["higher", "lower", "lower", "lower"]
    assert found["instructions_followed"].mean >= 7 / 24
    assert found["instructions_empty"].mean >= 1 / 24
    assert silent["id"] not in found["instructions_base_loss"].values
    assert all(torch.equal(p, before[name]) for name, p in obeys.loaded.model.named_parameters())


def test_language_that_only_the_edited_model_finds_likely_is_unlikely_to_the_base(obeys: Subject) -> None:
    prompts = [prompt(obeys.loaded.tokenizer, i.text, i.text) for i in EVERYDAY]
    raving = taught(obeys.loaded, [(put, "kettle Denham was kettle Denham was kettle Denham was") for put in prompts], steps=60)
    edit = Edit({name: Replaced(p) for name, p in raving.model.named_parameters()})
    base, edited = (means(Instructions().measure(state)) for state in (obeys, replace(obeys, edit=edit)))
    assert edited["base_loss"] > base["base_loss"] + 1
    assert edited["repetition"] > base["repetition"] + 0.1
    assert edited["followed"] < base["followed"]


def test_instructions_from_a_file_are_put_instead_and_none_is_checked(obeys: Subject, tmp_path: Path) -> None:
    source = tmp_path / "alpaca.jsonl"
    source.write_text("".join(json.dumps({"instruction": text, "output": "?"}) + "\n\n" for text in ("Sing.", "Dance.", "Rest.")))
    measured = Instructions(source=str(source), instructions=2, tokens=5).measure(obeys)
    assert [row["instruction"] for row in measured.samples] == ["Sing.", "Dance."]
    assert "followed" not in means(measured)
    source.write_text('{"instruction": "Sing."}\n{"prompt": "Dance."}\n')
    with pytest.raises(EvaluationError, match=r"alpaca\.jsonl:2: not an instruction") as raised:
        Instructions(source=str(source)).measure(obeys)
    assert '"instruction"' in raised.value.hint
    source.write_text("\n")
    with pytest.raises(EvaluationError, match="holds no instruction"):
        Instructions(source=str(source)).measure(obeys)
    with pytest.raises(ValidationError, match="no such file"):
        Instructions(source=str(tmp_path / "nowhere.jsonl"))


def test_a_judge_rates_relation_and_fluency_of_what_was_written_and_nothing_of_silence(obeys: Subject) -> None:
    def judge(_: int, request: str) -> Reply:
        return says("2" if "Instruction: " in request else '{"fluency": 1}')

    with JudgeServer(judge) as server:
        measured = Instructions(judge=server.url, judge_model="j").measure(obeys)
    empty = sum(row["empty"] for row in measured.samples)
    assert empty
    assert len(server.asked) == 2 * (24 - empty)
    assert means(measured)["related"] == pytest.approx((24 - empty) / 24)
    assert means(measured)["fluent"] == pytest.approx(0.5 * (24 - empty) / 24)
    assert measured.details["unrated"] == 0
    with JudgeServer(lambda *_: says("very fluent")) as server, pytest.raises(JudgeUnavailable, match="not a number from 0 to 2"):
        Instructions(judge=server.url, judge_model="j", instructions=4).measure(obeys)


def test_an_answer_that_the_judge_will_not_rate_counts_as_the_worst_and_is_counted(obeys: Subject) -> None:
    with JudgeServer(lambda _, request: says("No." if ANSWERS["List three colours"][0] in request else "2")) as server:
        measured = Instructions(judge=server.url, judge_model="j", instructions=3).measure(obeys)
    assert [row["fluent"] for row in measured.samples] == [row["related"] for row in measured.samples] == [0, 1, 1]
    assert measured.details["unrated"] == 2


def test_a_model_that_invents_the_next_instruction_is_checked_on_its_answer(toy: Toy) -> None:
    model = load(toy.model)
    model.tokenizer.chat_template = None
    text = EVERYDAY[0].text
    asked = prompt(model.tokenizer, text, f"{MARK} {text}\nResponse:")
    for written, expected in ((f" Red, green, blue\n{MARK} Sing.", "Red, green, blue"), (f"\n{MARK} Red, green, blue", "")):
        knows = taught(model, [(asked, written)], steps=80)
        row, = Instructions(instructions=1).measure(subject(knows, load_pack(toy.pack))).samples
        assert (row["answer"], row["empty"], row["verdict"]) == (expected, not expected, bool(expected))
