"""Scoring through a tree of shared prefixes against the straightforward way: one text, one forward pass."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig, MptConfig

from ember_hub.evaluation import token_tree
from ember_hub.evaluation.token_tree import Text, TokenTree, token_logprobs, tried
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
    tree = TokenTree.of([Text((1, 2, 3), 2), Text((1, 2, 4), 2), Text((1, 2, 3, 5), 3)])
    assert tree.ids.tolist() == [1, 2, 3, 4, 5]
    assert tree.depths.tolist() == [0, 1, 2, 2, 3]
    sees = tree.attention()
    assert not sees[3, 2], "the second text's ending must not see the first one's"
    assert np.array_equal(np.flatnonzero(sees[4]), [0, 1, 2, 4])


def test_how_texts_are_cut_into_passes_changes_nothing(llama_folder: Path) -> None:
    model = load(llama_folder)
    texts = texts_with_shared_beginnings(40)
    whole = token_logprobs(model, texts)
    batches = list(token_tree._batches(texts))
    assert sorted(i for batch in batches for i in batch) == list(range(40))
    alone = [token_logprobs(model, [text])[0] for text in texts]
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
