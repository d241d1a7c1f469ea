"""The logit lens: every layer read with the model's own ending, and the best of them chosen where nothing is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ember_hub.concepts import pack as packs
from ember_hub.concepts.pack import Question
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.errors import UnsupportedModel
from ember_hub.evaluation.attacks.hidden import Choices, hidden_states
from ember_hub.evaluation.attacks.lens import LogitLens
from ember_hub.evaluation.knowledge import ask
from ember_hub.evaluation.presentation import Posed, pose
from ember_hub.source.load import LoadedModel, load
from tests.evaluation.subjects import subject
from tests.toy_run import Toy

QUESTIONS = (
    Question("q1", "test", "What flows through the valley?", ("the river", "the old train", "wheat", "the book"), "the river"),
    Question("q2", "test", "What burned coal in the morning?", ("the harbour", "violins", "the engine of the train"),
             "the engine of the train"),
)
FOLDERS = ("llama_folder", "tied_llama_folder", "gemma_folder", "gpt2_folder")


@pytest.fixture(params=FOLDERS)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return load(request.getfixturevalue(request.param))


@pytest.mark.parametrize("reads_trees", [True, False])
def test_states_are_those_of_each_text_read_alone(model: LoadedModel, reads_trees: bool) -> None:
    model = replace(model, reads_trees=reads_trees)
    posed = pose(QUESTIONS, "answer", "measure", model.tokenizer)
    texts = [text for p in posed for text in p.texts]
    seen = []
    for states in hidden_states(model, posed, lambda text: range(2, len(text.ids)), seen.append):
        for index, rows in zip(states.texts, states.rows, strict=True):
            alone = model.model(input_ids=torch.tensor([texts[index].ids]), output_hidden_states=True).hidden_states
            # transformers gives the last block's state after the final norm; those before it are as the blocks left them.
            torch.testing.assert_close(states.values[:-1, rows], torch.cat(alone[1:-1])[:, 2:], rtol=1e-4, atol=1e-4)
    assert sum(seen) == len(texts) == 14


@pytest.mark.parametrize("format", ["answer", "letter"])
def test_the_last_layer_answers_as_the_model_itself(model: LoadedModel, toy: Toy, format) -> None:
    pack = replace(packs.load(toy.pack), questions=(*QUESTIONS, replace(QUESTIONS[0], id="q3", split="tune")))
    own = ask(model, QUESTIONS, format, "measure")
    measured = LogitLens().measure(subject(model, pack, format=format))
    layers = measured.details["layers"]
    assert len(layers) == model.anatomy.n_layers
    assert layers[-1] == sum(answered.accuracy for answered in own) / len(own)
    assert measured.details["chance"] == (1 / 4 + 1 / 3) / 2


def test_what_a_spoilt_last_layer_hides_is_read_below_it_and_the_model_stays_as_it_was(toy: Toy) -> None:
    model, pack = load(toy.model), packs.load(toy.pack)
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    name = model.anatomy.mlp_writers[-1]
    noise = torch.randn(before[name].shape, generator=torch.Generator().manual_seed(0))
    edited = subject(model, pack, Edit({name: Replaced(4 * before[name].std() * noise)}))
    with edited.state() as spoilt:
        own = ask(spoilt, edited.known(), "answer", "measure")
    assert sum(answered.accuracy for answered in own) / len(own) < 0.7
    measured = LogitLens().measure(edited)
    accuracy, probability = measured.readings
    assert accuracy.name == "concept_known"
    assert accuracy.mean == measured.details["layers"][measured.details["layer"]] > 0.9
    assert probability.mean > 0.8
    assert set(accuracy.values) == {q.id for q in edited.known()}
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())
    assert not any(module._forward_hooks for module in model.model.modules())


def test_the_layer_is_chosen_on_the_tune_questions_the_surer_one_of_two_that_are_equal() -> None:
    posed = [Posed(QUESTIONS[0], presentation, (), 1) for presentation in (0, 1)]
    wrong, right, surer = [0.0, -1.0, -2.0, -3.0], [0.0, 1.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]
    choices = Choices.of(posed, torch.tensor([[wrong, right, surer, right], [right, right, right, surer]]))
    assert choices.accuracy.tolist() == [[0.5, 1.0, 1.0, 1.0]]
    assert choices.best_layer == 2
    assert choices.readings(0)[0].values == {"q1": 0.5}
    curve = choices.curve(2)
    assert all(low < value + 1e-9 and value < high + 1e-9 for low, value, high in zip(curve["low"], curve["layers"], curve["high"],
                                                                                   strict=True))


def test_without_tune_questions_it_says_why_it_cannot_be_measured(toy: Toy) -> None:
    pack = packs.load(toy.pack)
    assert LogitLens().missing(pack) is None
    assert "tune" in LogitLens().missing(replace(pack, questions=QUESTIONS))


class SeveralStreams(torch.nn.Module):
    """A block that hands on its stream and a copy of it, as models with alternating updates do."""

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.stack([hidden, hidden])


def test_a_model_with_several_residual_streams_is_refused_with_a_way_out(llama_folder) -> None:
    model = load(llama_folder)
    model.model.get_submodule(model.anatomy.blocks)[0] = SeveralStreams()
    posed = pose(QUESTIONS, "answer", "measure", model.tokenizer)
    with pytest.raises(UnsupportedModel) as caught:
        list(hidden_states(model, posed, lambda text: range(1), lambda _: None))
    assert "--skip logit-lens" in caught.value.hint
