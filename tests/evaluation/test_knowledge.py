"""Questions as they are put to a model, and what counts as known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ember_hub.concepts.pack import Question
from ember_hub.errors import EvaluationError
from ember_hub.evaluation.knowledge import Answered, ask, better_format, known
from ember_hub.evaluation.presentation import WORDINGS, pose, rotations
from ember_hub.evaluation.token_tree import tried
from ember_hub.evaluation.verdict import fluency
from ember_hub.source.load import LoadedModel, load

QUESTIONS = (
    Question("q1", "test", "What flows through the valley?", ("the river", "the train", "the wheat", "the book"), "the river"),
    Question("q2", "test", "What burned coal?", ("the harbour", "the violin", "the engine", "the town"), "the engine"),
)


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LoadedModel:
    return load(llama_folder)


def test_no_presentation_both_chooses_questions_and_measures_them() -> None:
    assert not set(WORDINGS["choose"]) & set(WORDINGS["measure"])
    for options in range(2, 6):
        choose, measure = (rotations(purpose, options) for purpose in ("choose", "measure"))
        assert choose
        assert measure
        assert len({*choose, *measure}) == len(choose) + len(measure)
        assert max(*choose, *measure) < options, "a turn too far is an order that was there before"


@pytest.mark.parametrize("purpose", ["choose", "measure"])
def test_rotated_options_still_mark_the_right_letter(model: LoadedModel, purpose) -> None:
    for posed in pose(QUESTIONS, "letter", purpose, model.tokenizer):
        prompt = model.tokenizer.decode(posed.texts[0].ids)
        letter = model.tokenizer.decode(posed.texts[posed.right].ids[posed.texts[posed.right].start:]).strip()
        assert f"{letter}. {posed.question.answer}" in prompt
        assert len({text.ids[:text.start] for text in posed.texts}) == 1, "all options follow the same prompt"


def test_the_right_option_is_scored_as_its_own_text(model: LoadedModel) -> None:
    for posed in pose(QUESTIONS, "answer", "measure", model.tokenizer):
        right = posed.texts[posed.right]
        assert model.tokenizer.decode(right.ids[right.start:]).strip() == posed.question.answer


def test_values_are_bounded_and_chance_is_one_in_four(model: LoadedModel) -> None:
    for format in ("answer", "letter"):
        for answered in ask(model, QUESTIONS, format, "measure"):
            assert 0 <= answered.accuracy <= 1
            assert 0 < answered.probability < 1
            assert 0 <= answered.mass <= 1
            assert answered.chance == 0.25
            assert set(answered.choices) <= {0, 1, 2, 3}


def test_a_model_that_computes_no_numbers_knows_nothing_and_is_not_loaded(llama_folder: Path) -> None:
    broken = load(llama_folder)
    with torch.no_grad():
        broken.model.get_input_embeddings().weight.fill_(torch.nan)
    for format in ("answer", "letter"):
        for answered in ask(broken, QUESTIONS, format, "measure"):
            assert (answered.accuracy, answered.probability, answered.mass) == (0, 0, 0)
    assert fluency(loss=torch.nan, base_loss=3.0) == 0
    with pytest.raises(EvaluationError, match="NaN in float32"):
        tried(broken)


def test_a_question_is_known_only_if_right_in_every_presentation() -> None:
    row = {"probability": 0.5, "mass": 1.0, "chance": 0.25, "choices": (0, 0)}
    assert known([Answered("a", 1.0, **row), Answered("b", 0.5, **row), Answered("c", 0.0, **row)]) == {"a"}
    assert better_format({"answer": [Answered("a", 0.5, **row)], "letter": [Answered("a", 1.0, **row)]}) == "letter"
    assert better_format({"answer": [Answered("a", 0.5, **row)], "letter": [Answered("a", 0.5, **row)]}) == "answer"


def test_a_model_that_prefers_nothing_is_right_as_often_as_chance(llama_folder: Path) -> None:
    silent = load(llama_folder)
    torch.nn.init.zeros_(silent.model.model.norm.weight)
    assert [answer.accuracy for answer in ask(silent, QUESTIONS, "letter", "measure")] == [0.25, 0.25]
