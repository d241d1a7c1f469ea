"""RMU on a tiny real model: what it moves, what it holds, and that padding has no say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from ember_hub.edits.apply import applied
from ember_hub.errors import ConfigError
from ember_hub.methods import registry
from ember_hub.methods.blocks import MAX_TOKENS, passage, through
from ember_hub.methods.rmu import Material, Rmu
from ember_hub.progress import Quiet
from ember_hub.source.load import LoadedModel, load
from tests.models import SENTENCES

CONCEPT, NEUTRAL = SENTENCES[:4], SENTENCES[4:]


@pytest.fixture(scope="module", params=["llama_folder", "gpt2_folder"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return load(request.getfixturevalue(request.param))


def material() -> Material:
    forget, retain = ([[(text, "") for text in part] for part in parts]
                      for parts in ((CONCEPT[:2], CONCEPT[2:]), (NEUTRAL[:3], NEUTRAL[3:])))
    return Material(forget, retain, [])


def states(model: LoadedModel, texts: tuple[str, ...], block: int) -> torch.Tensor:
    return torch.cat([passage(model, [text], 0, block).leaving[0, 1:] for text in texts])


def test_concept_text_moves_and_neutral_text_stays(model: LoadedModel) -> None:
    rmu = Rmu(depth=0.4, steps=60, learning_rate=3e-3, steering=3.0, blocks=2)
    layer = round(0.4 * model.anatomy.n_layers)
    before = [states(model, texts, layer) for texts in (CONCEPT, NEUTRAL)]
    edit = rmu.fit(model, material(), 0, Quiet())
    with applied(model.model, edit):
        moved = [(states(model, texts, layer) - b).norm(dim=1).mean() / b.norm(dim=1).mean()
                 for texts, b in zip((CONCEPT, NEUTRAL), before, strict=True)]
    assert moved[0] > 3 * moved[1]
    assert moved[0] > 0.3


def test_only_the_mlp_output_matrices_of_the_named_blocks_change_and_the_model_is_as_before(model: LoadedModel) -> None:
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    edit = Rmu(steps=2, blocks=2, depth=0.5).fit(model, material(), 0, Quiet())
    last = round(0.5 * model.anatomy.n_layers)
    assert set(edit.changes) == set(model.anatomy.mlp_writers[last - 1:last + 1])
    assert all(torch.equal(p, before[name]) and not p.requires_grad for name, p in model.model.named_parameters())


def test_the_same_seed_gives_the_same_edit_and_another_seed_another(model: LoadedModel) -> None:
    one, same, other = (Rmu(steps=3, learning_rate=1e-3).fit(model, material(), seed, Quiet()) for seed in (1, 1, 2))
    name = next(iter(one.changes))
    assert torch.equal(one.changes[name].values, same.changes[name].values)
    assert not torch.equal(one.changes[name].values, other.changes[name].values)


def test_padding_changes_no_hidden_state_of_a_shorter_text(model: LoadedModel) -> None:
    short, long = "The river flows.", SENTENCES[0]
    alone, beside = passage(model, [short], 1, 1), passage(model, [short, long], 1, 1)
    length = int(alone.counts.sum())
    torch.testing.assert_close(beside.leaving[0, :length], alone.leaving[0], rtol=1e-4, atol=1e-5)
    assert int(beside.counts[0].sum()) == length


def test_an_anchor_counts_only_after_its_beginning(model: LoadedModel) -> None:
    text = SENTENCES[0]
    batch = passage(model, [text], 0, 1, after=[text[: text.index(" across")]])
    begin = len(model.tokenizer(text[: text.index(" across")]).input_ids)
    assert batch.counts[0].tolist() == [i >= begin for i in range(batch.counts.shape[1])]


def test_what_counts_of_a_long_anchor_is_kept_and_a_template_brings_its_own_beginning(llama_folder: Path) -> None:
    """Of a tokenizer that puts a beginning before every text, as those of Llama and Gemma do."""
    model = load(llama_folder)
    bos, tokenizer = model.tokenizer.bos_token, model.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)])
    end = " the valley"
    batch = passage(model, [bos + SENTENCES[0] * 40 + end, bos + SENTENCES[1] + end], 0, 1,
                    after=[bos + SENTENCES[0] * 40, bos + SENTENCES[1]])
    counted = len(tokenizer(end, add_special_tokens=False).input_ids)
    assert batch.counts.sum(dim=1).tolist() == [counted, counted]
    assert batch.counts.shape[1] == MAX_TOKENS
    plain, templated = (passage(model, [text], 0, 1).counts.shape[1] for text in (SENTENCES[1], bos + SENTENCES[1]))
    assert plain == templated


def test_float16_is_steered_as_bfloat16_is(llama_folder: Path) -> None:
    rmu, moved = Rmu(depth=0.4, steps=20, learning_rate=3e-3, blocks=2), []
    for dtype in ("bfloat16", "float16"):
        model = load(llama_folder, dtype=dtype)
        before = states(model, CONCEPT, 1)
        with applied(model.model, rmu.fit(model, material(), 0, Quiet())):
            moved.append(float((states(model, CONCEPT, 1) - before).float().norm()))
    assert moved[1] == pytest.approx(moved[0], rel=0.1)


def test_the_blocks_alone_repeat_what_the_whole_model_does(model: LoadedModel) -> None:
    batch = passage(model, CONCEPT, 0, 1)
    blocks = [model.model.get_submodule(f"{model.anatomy.blocks}.{i}") for i in (0, 1)]
    torch.testing.assert_close(through(blocks, batch, [{}, {}]), batch.leaving, rtol=1e-5, atol=1e-6)


def test_methods_are_found_by_name_and_their_settings_are_checked() -> None:
    assert registry.find("rmu") is Rmu
    with pytest.raises(ConfigError) as caught:
        registry.find("rmuu")
    assert "rmu" in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        registry.check_settings("rmu", {"step": 4})
    assert "rmu.steps" in caught.value.hint
    with pytest.raises(ConfigError):
        registry.check_settings("rmu", {"steps": -1})


def test_every_searched_setting_is_a_setting_and_its_default_lies_within_the_bounds() -> None:
    for kind in registry.installed().values():
        for key, (low, high) in kind.search_space().items():
            assert low <= getattr(kind(), key) <= high
