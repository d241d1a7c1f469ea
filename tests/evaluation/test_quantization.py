"""Rounded weights: by how much, which of them, and that the base keeps its own."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2MoeConfig

from ember_hub.concepts.pack import load as load_pack
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.evaluation.attacks.quantization import (
    BLOCK,
    NF4,
    Quantize4Bit,
    Quantize8Bit,
    QuantizeGguf,
    gguf_rounding,
    int8,
    nf4,
    quantize,
)
from ember_hub.source.load import load
from tests.evaluation.subjects import subject, weights
from tests.toy_run import Toy

WIDEST = max(above - below for below, above in itertools.pairwise(NF4))


def random_map(written: int = 48, read: int = 96) -> torch.Tensor:
    return torch.randn(written, read, generator=torch.Generator().manual_seed(0))


def test_the_levels_of_nf4_are_quantiles_of_a_normal_distribution() -> None:
    """Eight equal shares above zero, seven below, scaled to [-1, 1]."""
    def quantiles(count: int) -> torch.Tensor:
        return torch.special.ndtri(torch.linspace(0.9677083, 0.5, count + 1, dtype=torch.float64))[:-1]

    levels = torch.cat((-quantiles(7), torch.zeros(1), quantiles(8).flip(0)))
    assert torch.allclose(levels / levels.max(), torch.tensor(NF4, dtype=torch.float64), atol=2e-7)


def test_eight_bits_are_off_by_half_a_step_of_their_row_at_most() -> None:
    weight = random_map() * torch.logspace(-3, 3, 48)[:, None]
    step = weight.abs().amax(1, keepdim=True) / 127
    off = (int8(weight) - weight).abs() / step
    assert 0.45 < off.max() < 0.501
    assert torch.equal(int8(weight[5:6]), int8(weight)[5:6]), "a row knows nothing of the others"


def test_four_bits_are_off_by_half_the_widest_gap_of_their_block_at_most() -> None:
    weight = random_map(3, 100)
    blocks = torch.cat((weight.flatten(), torch.zeros(20))).view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True).expand_as(blocks).flatten()[:300].view(3, 100)
    off = (nf4(weight) - weight).abs() / largest
    assert 0.35 * WIDEST < off.max() <= 0.5 * WIDEST + 1e-6
    levels = (nf4(weight) / largest).flatten()
    assert (levels[:, None] - torch.tensor(NF4)).abs().min(1).values.max() < 1e-6


@pytest.mark.parametrize(("format", "bound"), [("Q8_0", 0.57 / 127), ("Q5_0", 1.01 / 16), ("Q4_0", 1.01 / 8)])
def test_gguf_formats_are_off_by_a_step_of_their_block_at_most(format, bound: float) -> None:
    weight = random_map()
    largest = weight.view(-1, 32).abs().amax(1, keepdim=True)
    off = ((gguf_rounding(format)(weight) - weight).view(-1, 32).abs() / largest).max()
    assert 0.4 * bound < off < bound
    odd = random_map(4, 40)
    assert gguf_rounding(format)(odd) is odd, "a row that is no multiple of the block stays as it is"


def test_what_can_be_written_exactly_is_not_changed() -> None:
    steps = torch.randint(-127, 128, (8, 64), generator=torch.Generator().manual_seed(1)).float()
    steps[:, 0] = 127
    assert torch.equal(int8(steps * 0.25), steps * 0.25)
    levels = torch.tensor(NF4)[torch.randint(0, 16, (8, 64), generator=torch.Generator().manual_seed(2))]
    levels[:, 0] = 1
    assert torch.equal(nf4(levels * 4), levels * 4)
    for rounding in (int8, nf4, gguf_rounding("Q4_0")):
        assert torch.equal(rounding(torch.zeros(2, 64)), torch.zeros(2, 64))


@pytest.mark.parametrize("folder", ["llama_folder", "gpt2_folder"])
def test_linear_maps_are_rounded_and_nothing_else(folder: str, request: pytest.FixtureRequest) -> None:
    loaded = load(request.getfixturevalue(folder))
    before = weights(loaded)
    count = quantize(loaded.model, int8)
    moved = {name for name, p in loaded.model.named_parameters() if not torch.equal(p, before[name])}
    maps = {name for name, p in before.items() if p.ndim == 2 and name != loaded.anatomy.head and "embed" not in name
            and "wte" not in name and "wpe" not in name}
    assert moved == maps
    assert count == len(maps)
    written_first = (lambda p: p.T) if folder == "gpt2_folder" else (lambda p: p)
    for name in maps:
        assert torch.equal(written_first(loaded.model.get_parameter(name)), int8(written_first(before[name]))), name
    assert quantize(loaded.model, int8, with_embedding=True) == len(maps) + 1


def test_fused_experts_are_rounded_one_by_one() -> None:
    config = Qwen2MoeConfig(vocab_size=64, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
                            shared_expert_intermediate_size=16, num_attention_heads=2, num_key_value_heads=2, num_experts=3,
                            num_experts_per_tok=1)
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    fused = {name: p.clone() for name, p in model.named_parameters() if p.ndim == 3}
    quantize(model, nf4)
    assert len(fused) == 2
    for name, before in fused.items():
        assert torch.equal(model.get_parameter(name), torch.stack([nf4(expert) for expert in before]))


def test_a_change_below_the_rounding_step_is_gone(llama_folder: Path) -> None:
    """Why quantization is an attack: a small enough erasure of a linear map is rounded off."""
    base, edited = load(llama_folder), load(llama_folder)
    name = "model.layers.0.mlp.down_proj.weight"
    quantize(base.model, nf4)
    weight, rounded = edited.model.get_parameter(name), base.model.get_parameter(name)
    # A tenth of the way to where it is rounded to: no block's largest weight moves, being a level itself.
    weight += 0.1 * (rounded - weight)
    assert not torch.equal(weight, load(llama_folder).model.get_parameter(name))
    quantize(edited.model, nf4)
    assert torch.equal(edited.model.get_parameter(name), rounded)


@pytest.mark.parametrize("attack", [Quantize8Bit(), Quantize4Bit(), QuantizeGguf(), Quantize4Bit(backend="gguf")],
                         ids=["8bit", "4bit", "gguf", "4bit-gguf"])
def test_the_edited_model_is_asked_and_the_base_keeps_its_weights(toy: Toy, attack) -> None:
    loaded, pack = load(toy.model), load_pack(toy.pack)
    before = weights(loaded)
    mute = Edit({"model.norm.weight": Replaced(torch.zeros(48))})
    base, edited = attack.measure(subject(loaded, pack)), attack.measure(subject(loaded, pack, mute))
    assert [r.name for r in base.readings] == ["concept_known", "concept_probability", "valid_mass_concept"]
    assert base.readings[0].mean >= 0.75
    assert edited.readings[1].mean < 0.5 < base.readings[1].mean
    assert base.details["rounded_matrices"] == 21 + attack.rounds_embedding
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())


def test_the_kernels_of_another_library_are_missed_by_name(toy: Toy) -> None:
    pack = load_pack(toy.pack)
    assert Quantize4Bit().missing(pack) is None
    expected = "bitsandbytes is not installed" if find_spec("bitsandbytes") is None else None
    assert Quantize8Bit(backend="bitsandbytes").missing(pack) == expected


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_plain_torch_rounds_as_bitsandbytes_does() -> None:
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    theirs = Quantize4Bit(backend="bitsandbytes").rounding()(weight)
    assert torch.equal(theirs, nf4(weight).bfloat16())
    # In 8 bits its scales are float16: a step is a hundredth of a weight's range, and they agree far below it.
    theirs = Quantize8Bit(backend="bitsandbytes").rounding()(weight)
    assert (theirs.float() - int8(weight)).abs().max() < 0.05
