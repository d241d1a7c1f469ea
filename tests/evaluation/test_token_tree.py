"""Scoring through a tree of shared prefixes against the straightforward way: one text, one forward pass."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig, MptConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ember_hub.evaluation import token_tree
from ember_hub.evaluation.token_tree import Blocks, Text, TokenTree, fitting, mean_loss, token_logprobs, tried
from ember_hub.source.load import load


def straightforward(model: torch.nn.Module, text: Text) -> torch.Tensor:
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([text.ids])).logits[0].float().log_softmax(-1)
    return torch.stack([logprobs[i - 1, text.ids[i]] for i in range(text.start, len(text.ids))])


def texts_with_shared_beginnings(count: int) -> list[Text]:
    dice = random.Random(0)
    stems = [tuple(dice.randrange(5, 200) for _ in range(dice.randrange(3, 30))) for _ in range(max(1, count // 4))]
    endings = [tuple(dice.randrange(5, 200) for _ in range(dice.randrange(1, 6))) for _ in range(count)]
    return [Text(stem := stems[i % len(stems)] + end, len(stem) - len(end)) for i, end in enumerate(endings)]


@pytest.mark.parametrize("name", ["llama_folder", "gemma_folder", "gpt2_folder"])
def test_the_tree_gives_the_log_probabilities_of_single_passes(name: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(name))
    assert tried(model).reads_trees
    texts = texts_with_shared_beginnings(24)
    for way in (model, replace(model, reads_trees=False)):
        for text, found in zip(texts, token_logprobs(way, texts), strict=True):
            torch.testing.assert_close(found, straightforward(model.model, text), rtol=1e-4, atol=1e-4)


def test_a_layer_that_looks_back_less_far_than_a_text_is_long_is_not_shown_all_of_it(gemma_folder: Path) -> None:
    """The window of this model's local layers is 64 tokens; shorter texts show nothing of it."""
    model, dice = tried(load(gemma_folder)), random.Random(0)
    stem = tuple(dice.randrange(5, 200) for _ in range(100))
    texts = [Text((*stem, end), 100) for end in (5, 6, 7)]
    for text, found in zip(texts, token_logprobs(model, texts), strict=True):
        torch.testing.assert_close(found, straightforward(model.model, text), rtol=1e-4, atol=1e-4)
    loss = mean_loss(model, [Text(stem, 1)])
    torch.testing.assert_close(loss.detach(), -straightforward(model.model, Text(stem, 1)).mean(), rtol=1e-4, atol=1e-4)
    assert model.reads_trees
    assert fitting(model, [Text(stem[:50], 1)]) is model


@pytest.mark.parametrize("as_trees", [True, False])
@pytest.mark.parametrize("name", ["llama_folder", "gemma_folder", "gpt2_folder"])
def test_training_takes_the_gradient_of_the_padded_batch(name: str, as_trees: bool, request: pytest.FixtureRequest) -> None:
    model = replace(load(request.getfixturevalue(name)), reads_trees=as_trees)
    model.model.requires_grad_(True)
    dice = random.Random(0)
    texts = [(1, *(dice.randrange(5, 200) for _ in range(length))) for length in (40, 3, 11, 7)]
    parameters = list(model.model.parameters())
    found = torch.autograd.grad(mean_loss(model, [Text(ids, 1) for ids in texts]), parameters, materialize_grads=True)

    padded = torch.tensor([[*ids, *[0] * (41 - len(ids))] for ids in texts])
    real = torch.tensor([[1] * len(ids) + [0] * (41 - len(ids)) for ids in texts])
    logits = model.model(input_ids=padded, attention_mask=real).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), padded.masked_fill(real == 0, -100)[:, 1:].flatten())
    for one, other in zip(found, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama_folder", "gemma_folder", "gpt2_folder"])
def test_rounding_is_not_taken_for_another_mask(name: str, dtype: str, request: pytest.FixtureRequest) -> None:
    assert tried(load(request.getfixturevalue(name), dtype=dtype)).reads_trees


def test_a_model_without_sdpa_keeps_to_the_mask(llama_folder: Path) -> None:
    model = load(llama_folder)
    model.model.set_attn_implementation("eager")
    texts = texts_with_shared_beginnings(24)
    for text, found in zip(texts, token_logprobs(tried(model), texts), strict=True):
        torch.testing.assert_close(found, straightforward(model.model, text), rtol=1e-4, atol=1e-4)


def test_attention_in_blocks_is_attention_under_the_whole_mask_at_a_part_of_its_cost() -> None:
    torch.manual_seed(0)
    tree = TokenTree.of(sorted(texts_with_shared_beginnings(60), key=lambda text: text.ids)).padded(8)
    sees, like = tree.attention(), torch.zeros(())
    blocks = Blocks.of(sees, 8, like)
    query, (key, value) = torch.randn(1, 4, len(tree.ids), 16), torch.randn(2, 1, 2, len(tree.ids), 16)
    attention = torch.nn.Module()
    attention.num_key_value_groups = 2
    whole = sdpa_attention_forward(attention, query, key, value, token_tree._mask(sees, like)[None, None])[0]
    with blocks.replacing_sdpa():
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not sdpa_attention_forward
        in_blocks = ALL_ATTENTION_FUNCTIONS["sdpa"](attention, query, key, value, attention_mask=None)[0]
    torch.testing.assert_close(in_blocks, whole, rtol=1e-5, atol=1e-5)
    assert blocks.mask.numel() < sees.size / 2


def test_attention_is_put_back_when_a_pass_fails(llama_folder: Path) -> None:
    model = load(llama_folder)
    with pytest.raises(IndexError):
        token_logprobs(model, [Text((1, 2, 10**6, 3), 1)])
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


@pytest.mark.parametrize("config", [MambaConfig(vocab_size=768, hidden_size=32, num_hidden_layers=2, initializer_range=0.5),
                                    BloomConfig(vocab_size=768, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5),
                                    MptConfig(vocab_size=768, d_model=32, n_layers=2, n_heads=4, initializer_range=0.5)],
                         ids=lambda c: c.model_type)
def test_a_model_that_does_not_follow_the_mask_is_found_out_and_scored_row_by_row(config, llama_folder: Path) -> None:
    torch.manual_seed(0)
    other = tried(replace(load(llama_folder), model=AutoModelForCausalLM.from_config(config).eval()))
    assert not other.reads_trees
    texts = texts_with_shared_beginnings(12)
    for text, found in zip(texts, token_logprobs(other, texts), strict=True):
        torch.testing.assert_close(found, straightforward(other.model, text), rtol=1e-3, atol=1e-3)


def test_a_shared_prefix_is_one_path_and_nobody_sees_a_sibling() -> None:
    tree = TokenTree.of([Text((1, 2, 3, 9), 2), Text((1, 2, 4, 9), 2), Text((1, 2, 3, 5, 9), 3)])
    assert tree.ids.tolist() == [1, 2, 3, 4, 5], "nobody asks what follows a last token, so none is read"
    assert tree.depths.tolist() == [0, 1, 2, 2, 3]
    sees = tree.attention()
    assert not sees[3, 2], "the second text's ending must not see the first one's"
    assert np.array_equal(np.flatnonzero(sees[4]), [0, 1, 2, 4])


@pytest.mark.parametrize("as_trees", [True, False])
def test_a_pass_is_bounded_and_every_text_is_in_one(as_trees: bool) -> None:
    texts = texts_with_shared_beginnings(400)
    batches = [[texts[i] for i in batch] for batch in token_tree._batches(texts, as_trees)]
    assert sorted(t.ids for batch in batches for t in batch) == sorted(t.ids for t in texts)
    for batch in batches:
        size = len(TokenTree.of(batch).ids) if as_trees else len(batch) * max(len(t.read) for t in batch)
        assert size <= token_tree.TOKENS_PER_PASS


@pytest.mark.parametrize(("length", "most"), [(500, 2000), (6000, 6000 + token_tree.MOST_BESIDE)])
def test_a_long_beginning_in_common_is_a_quarter_of_a_pass_or_stands_beside_much_else(length: int, most: int) -> None:
    passage, ending = tuple(range(length)), tuple(range(30))
    texts = [Text((*passage, length + i, *ending), length) for i in range(300)]
    sizes = [len(TokenTree.of([texts[i] for i in batch]).ids) for batch in token_tree._batches(texts, as_trees=True)]
    assert len(sizes) > 2
    assert all(most - len(ending) <= size <= most for size in sizes[:-1])
    assert sizes[-1] <= most


def test_how_texts_are_cut_into_passes_changes_nothing(llama_folder: Path) -> None:
    model = load(llama_folder)
    texts = texts_with_shared_beginnings(40)
    whole = token_logprobs(model, texts)
    alone = [token_logprobs(model, [text])[0] for text in texts]
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
