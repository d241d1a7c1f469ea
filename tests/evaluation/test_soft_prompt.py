"""The soft prompt: vectors where placeholders stand, trained on some questions, asked others, and nothing of the model moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from ember_hub.concepts import pack as packs
from ember_hub.evaluation.attacks.soft_prompt import Prompt, SoftPrompt
from ember_hub.evaluation.presentation import pose
from ember_hub.evaluation.token_tree import Text, token_logprobs
from ember_hub.source.load import LoadedModel, load
from tests.evaluation.subjects import subject
from tests.toy_run import Toy

FOLDERS = ("llama_folder", "tied_llama_folder", "gemma_folder", "gpt2_folder")


@pytest.fixture(params=FOLDERS)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return load(request.getfixturevalue(request.param))


def scores(model: LoadedModel, texts: list[Text]) -> torch.Tensor:
    return torch.cat(token_logprobs(model, texts))


@pytest.mark.parametrize("reads_trees", [True, False])
def test_before_training_the_vectors_are_exclamation_marks_and_other_vectors_are_not(model: LoadedModel, toy: Toy, reads_trees: bool
                                                                                    ) -> None:
    model = replace(model, reads_trees=reads_trees)
    posed = pose(packs.load(toy.pack).asked("questions", "test")[:3], "answer", "measure", model.tokenizer)
    texts = [text for p in posed for text in p.texts]
    prompt = Prompt.start(model, 5, texts[0])
    marked = [prompt.before(text) for text in texts]
    assert model.tokenizer.decode(marked[0].ids) == "!!!!!" + model.tokenizer.decode(texts[0].ids)
    plain = scores(model, marked)
    with prompt.read_by(model.model):
        torch.testing.assert_close(scores(model, marked), plain)
    others = replace(prompt, vectors=-prompt.vectors)
    with others.read_by(model.model):
        assert (scores(model, marked) - plain).abs().mean() > 1e-3
    torch.testing.assert_close(scores(model, marked), plain, msg="outside the block the model reads the placeholders")


def test_the_vectors_stand_after_what_the_tokenizer_puts_before_every_text(llama_folder) -> None:
    model = load(llama_folder)
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    text = Text(tuple(model.tokenizer("The river flows.").input_ids), 3)
    prompt = Prompt.start(model, 2, text)
    assert model.tokenizer.decode(prompt.before(text).ids) == "<bos>!!The river flows."
    assert prompt.before(text).start == 5
    bare = Text(text.ids[1:], 2)
    assert Prompt.start(model, 2, bare).before(bare).ids[:2] == (prompt.placeholder,) * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_trained_vectors_make_the_told_answers_likelier_and_no_weight_moves(folder: str, dtype: str, toy: Toy,
                                                                           request: pytest.FixtureRequest) -> None:
    model, pack = load(request.getfixturevalue(folder), dtype=dtype), packs.load(toy.pack)
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    posed = pose(pack.asked("questions", "test"), "answer", "measure", model.tokenizer)
    texts = [p.texts[p.right] for p in posed]
    start = Prompt.start(model, 4, texts[0])
    trained = SoftPrompt(tokens=4, iterations=20, batch_size=4, step=0.3).trained(model, posed, subject(model, pack))
    means = []
    for prompt in (start, trained):
        with prompt.read_by(model.model):
            means.append(float(scores(model, [prompt.before(text) for text in texts]).mean()))
    assert means[1] > means[0] + 0.1
    for name, parameter in model.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


@pytest.mark.parametrize("format", ["answer", "letter"])
def test_every_known_question_is_asked_once_and_the_same_seed_gives_the_same_answers(toy: Toy, format) -> None:
    model, pack = load(toy.model), packs.load(toy.pack)
    attack = SoftPrompt(tokens=3, iterations=4, batch_size=2)
    one, same, other = (attack.measure(subject(model, pack, format=format, seed=seed)) for seed in (1, 1, 2))
    assert set(one.readings[0].values) == {q.id for q in pack.asked("questions", "test")}
    assert one.readings[0].name == "concept_known"
    assert one == same
    assert one != other


def test_a_model_that_knows_still_answers_the_half_that_was_not_told(toy: Toy) -> None:
    model, pack = load(toy.model), packs.load(toy.pack)
    assert SoftPrompt(tokens=4, iterations=20, batch_size=4).measure(subject(model, pack)).readings[0].mean > 0.8


def test_with_too_few_questions_for_halves_it_says_so(toy: Toy) -> None:
    pack = packs.load(toy.pack)
    assert SoftPrompt().missing(pack) is None
    assert "halves" in SoftPrompt().missing(replace(pack, questions=pack.asked("questions", "tune")))
