"""Writing in batches against the straightforward way: one prompt, no cache, no padding, one token after the other."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, MambaConfig

from ember_hub.evaluation.generation import Decoding, Prompt, _draw, prompt, write
from ember_hub.source.load import LoadedModel, load
from tests.models import SENTENCES, pico_tokenizer

COLD = 1e-6
"""A temperature at which only the likeliest token is ever drawn."""


def prompts(loaded: LoadedModel) -> list[Prompt]:
    """Of very different lengths, the longest not last."""
    texts = (SENTENCES[0], "The river", " ".join(SENTENCES[2:4]), "A painter mixed the colours")
    return [prompt(loaded.tokenizer, text, text) for text in texts]


def straightforward(loaded: LoadedModel, ids: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    written: list[int] = []
    ends = {token for token, added in loaded.tokenizer.added_tokens_decoder.items() if added.special}
    while len(written) < tokens:
        with torch.inference_mode():
            token = int(loaded.model(input_ids=torch.tensor([[*ids, *written]]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        written.append(token)
    return tuple(written)


@pytest.mark.parametrize("name", ["llama_folder", "gemma_folder", "gpt2_folder"])
def test_a_batch_is_written_as_each_prompt_is_alone(name: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(name))
    expected = [straightforward(model, p.ids, 9) for p in prompts(model)]
    assert [answer.ids for answer, in write(model, prompts(model), Decoding(9))] == expected
    assert any(expected), "something is written"


@pytest.mark.parametrize("name", ["llama_folder", "gemma_folder", "gpt2_folder"])
def test_samples_that_share_one_reading_of_their_prompt_follow_it(name: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(name))
    greedy = write(model, prompts(model), Decoding(9))
    for (expected,), samples in zip(greedy, write(model, prompts(model), Decoding(9, COLD, samples=3)), strict=True):
        assert samples == (expected,) * 3


def test_a_model_with_another_kind_of_memory_is_sampled_too(llama_folder: Path) -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=768, hidden_size=32, num_hidden_layers=2, initializer_range=0.5)
    model = replace(load(llama_folder), model=AutoModelForCausalLM.from_config(config).eval())
    for p, samples in zip(prompts(model), write(model, prompts(model), Decoding(6, COLD, samples=2)), strict=True):
        assert {sample.ids for sample in samples} == {straightforward(model, p.ids, 6)}


def test_the_seed_decides_what_is_drawn_and_nobody_elses_dice_move(llama_folder: Path) -> None:
    model = load(llama_folder)
    before = torch.get_rng_state()
    drawn = [write(model, prompts(model), Decoding(8, 1.0, samples=4, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({sample.ids for sample in drawn[0][0]}) > 1
    # Hot enough, nearly any of the 768 tokens may come, not only the likeliest fifty.
    assert len(set(write(model, prompts(model)[:1], Decoding(1, 100.0, samples=192))[0])) > 100


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    logits, rows = torch.tensor([2.0, 1.0, -torch.inf, 0.0, -1.0]), 40_000
    torch.manual_seed(0)
    left = _draw(temperature, torch.empty(0), logits.expand(rows, -1))
    assert torch.equal((left > -torch.inf).sum(1), torch.ones(rows, dtype=torch.int64)), "one token is left of each row"
    shares = torch.bincount(left.argmax(1), minlength=len(logits)) / rows
    torch.testing.assert_close(shares, (logits / temperature).softmax(0), rtol=0, atol=0.01)
    assert shares[2] == 0


def test_neither_the_checkpoints_own_taste_nor_a_missing_pad_token_changes_what_is_written(
        llama_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = load(llama_folder)
    plain.tokenizer.chat_template = None
    expected = write(plain, prompts(plain), Decoding(9))
    drawn = write(plain, prompts(plain), Decoding(9, 1.0, samples=4))

    tokenizer = pico_tokenizer()
    tokenizer.pad_token, tokenizer.chat_template = None, None
    model = copy.deepcopy(plain.model)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, top_k=3, top_p=0.5, min_p=0.2, max_length=12,
                                               repetition_penalty=9.0, eos_token_id=2, suppress_tokens=list(range(5, 400)))
    kept, state = model.generation_config, model.generation_config.to_dict()
    capfd.readouterr()
    other = replace(plain, model=model, tokenizer=tokenizer)
    assert write(other, prompts(other), Decoding(9)) == expected
    assert write(other, prompts(other), Decoding(9, 1.0, samples=4)) == drawn
    assert model.generation_config is kept
    assert kept.to_dict() == state
    assert capfd.readouterr().err == ""


def test_an_answer_ends_at_any_token_that_ends_a_turn(llama_folder: Path) -> None:
    model = load(llama_folder)
    asked = prompts(model)
    whole = [answer for answer, in write(model, asked, Decoding(9))]
    # The checkpoint declares the third token of the first answer to be an end.
    end = whole[0].ids[2]
    model.model.generation_config.eos_token_id = [2, end]
    for before, (after,) in zip(whole, write(model, asked, Decoding(9)), strict=True):
        assert after.ids == before.ids[:before.ids.index(end) if end in before.ids else None]
    # And so does the tokenizer, where the checkpoint forgot.
    model.model.generation_config.eos_token_id = None
    model.tokenizer.add_special_tokens({"additional_special_tokens": [model.tokenizer.convert_ids_to_tokens(end)]})
    assert write(model, asked[:1], Decoding(9))[0][0].ids == whole[0].ids[:whole[0].ids.index(end)]


def test_a_prompt_is_a_users_turn_where_there_is_a_template_and_plain_text_where_there_is_none(llama_folder: Path) -> None:
    tokenizer = load(llama_folder).tokenizer
    assert prompt(tokenizer, "Who?", "Q: Who?\nA:").text == "<bos><user>Who?<eos><assistant>"
    assert prompt(tokenizer, "Who?", "Q: Who?\nA:").ids.count(tokenizer.bos_token_id) == 1
    own = tokenizer.chat_template
    tokenizer.chat_template = {"default": own, "tool_use": "{{ tools }}"}
    assert prompt(tokenizer, "Who?", "Q: Who?\nA:").text == "<bos><user>Who?<eos><assistant>"
    tokenizer.chat_template = {"tool_use": own}
    assert prompt(tokenizer, "Who?", "Q: Who?\nA:").text == "Q: Who?\nA:"
    tokenizer.chat_template = None
    assert prompt(tokenizer, "Who?", "Q: Who?\nA:").text == "Q: Who?\nA:"
