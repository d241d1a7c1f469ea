"""What is read from a model's modules, for families that call the same parts by different names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from ember_hub.errors import CorruptCheckpoint, UnsupportedModel
from ember_hub.source.anatomy import Anatomy, anatomy_of_config, read_anatomy

COMMON = {"vocab_size": 64, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48,
          "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**COMMON, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}

FAMILIES = [
    ("Llama", GROUPED, "model.embed_tokens", "model.layers", "mlp.down_proj.weight"),
    ("Qwen2", GROUPED, "model.embed_tokens", "model.layers", "mlp.down_proj.weight"),
    ("Olmo2", GROUPED, "model.embed_tokens", "model.layers", "mlp.down_proj.weight"),
    ("Gemma2", {**GROUPED, "head_dim": 8}, "model.embed_tokens", "model.layers", "mlp.down_proj.weight"),
    ("Gemma3Text", {**GROUPED, "head_dim": 8}, "model.embed_tokens", "model.layers", "mlp.down_proj.weight"),
    ("GPT2", COMMON, "transformer.wte", "transformer.h", "mlp.c_proj.weight"),
    ("GPTNeoX", COMMON, "gpt_neox.embed_in", "gpt_neox.layers", "mlp.dense_4h_to_h.weight"),
    ("Phi", COMMON, "model.embed_tokens", "model.layers", "mlp.fc2.weight"),
    ("OPT", {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}, "model.decoder.embed_tokens",
     "model.decoder.layers", "fc2.weight"),
    ("Mixtral", {**GROUPED, "num_local_experts": 4}, "model.embed_tokens", "model.layers", "mlp.experts.down_proj"),
    ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 16}, "model.embed_tokens", "model.layers",
     "mlp.experts.down_proj"),
    ("Qwen3Moe", EXPERTS, "model.embed_tokens", "model.layers", "mlp.experts.down_proj"),
]


def build(family: str, settings: dict[str, Any], device: str = "meta") -> PreTrainedModel:
    config = getattr(transformers, f"{family}Config")(**settings)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("family", "settings", "embedding", "blocks", "writer"), FAMILIES,
                         ids=[family[0] for family in FAMILIES])
def test_each_part_is_found_by_its_role(family: str, settings: dict[str, Any], embedding: str, blocks: str,
                                        writer: str) -> None:
    model = build(family, settings)
    anatomy = read_anatomy(model)
    assert anatomy.embedding == f"{embedding}.weight"
    assert (anatomy.vocab, anatomy.d_model, anatomy.n_layers) == (64, 32, 2)
    assert anatomy.blocks == blocks
    assert anatomy.mlp_writers == (f"{blocks}.0.{writer}", f"{blocks}.1.{writer}")
    assert all(32 in model.get_parameter(name).shape for name in anatomy.mlp_writers)
    assert anatomy.is_tied == model.config.tie_word_embeddings
    assert model.get_parameter(anatomy.head) is model.get_output_embeddings().weight


@pytest.mark.parametrize(("family", "settings", "scale"), [
    ("Llama", GROUPED, 1.0),
    ("Gemma2", {**GROUPED, "head_dim": 8}, 32**0.5),
    ("Gemma3Text", {**GROUPED, "head_dim": 8}, 32**0.5),
    ("Granite", {**GROUPED, "embedding_multiplier": 12.0}, 12.0),
])
def test_the_embedding_scale_is_what_reaches_the_first_block(family: str, settings: dict[str, Any],
                                                             scale: float) -> None:
    model = build(family, settings, "cpu")
    anatomy = read_anatomy(model)
    assert anatomy.embed_scale == pytest.approx(scale)
    seen = []
    block = model.get_submodule(f"{anatomy.blocks}.0")
    block.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
    model(torch.tensor([[5, 9]]))
    rows = model.get_parameter(anatomy.embedding)[[5, 9]]
    assert torch.allclose(seen[0][0], rows * anatomy.embed_scale, rtol=1e-4)


def test_a_second_table_with_a_row_per_token_is_reported() -> None:
    model = build("Llama", GROUPED)
    assert read_anatomy(model).other_tables == ()
    model.model.per_layer = torch.nn.Embedding(64, 8, device="meta")
    assert read_anatomy(model).other_tables == ("model.per_layer.weight",)


def test_blocks_of_a_vision_tower_are_not_taken_for_the_decoder() -> None:
    text = {**GROUPED, "head_dim": 8}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 14}
    model = build("Gemma3", {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4})
    anatomy = read_anatomy(model)
    assert anatomy.blocks == "model.language_model.layers"
    assert anatomy.n_layers == 2


def test_a_block_without_one_mlp_output_is_refused_only_when_it_is_needed() -> None:
    anatomy = read_anatomy(build("Mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}))
    assert anatomy.embedding == "backbone.embeddings.weight"
    assert anatomy.mlp_writers == ()
    with pytest.raises(UnsupportedModel, match="MLP") as caught:
        anatomy.required_mlp_writers()
    assert "embedding only" in caught.value.hint


def test_a_config_alone_gives_the_anatomy_of_the_loaded_model(gemma_folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(gemma_folder)
    assert anatomy_of_config(gemma_folder) == read_anatomy(loaded)
    assert isinstance(anatomy_of_config(gemma_folder), Anatomy)


@pytest.mark.parametrize(("config", "match"), [
    ({"model_type": "t5"}, "encoder-decoder"),
    ({"model_type": "bart"}, "encoder-decoder"),
    ({"model_type": "bert"}, "not a causal decoder"),
    ({"model_type": "clip"}, "no causal language model"),
    ({"model_type": "nobody-knows"}, "cannot use"),
    ({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized"),
    ({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}, "custom code"),
])
def test_what_is_no_causal_decoder_is_refused_with_a_hint(tmp_path: Path, config: dict[str, Any],
                                                         match: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=match) as caught:
        anatomy_of_config(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"model_type": "llama", "hidden_size": "wide"}',
                                    '{"model_type": "llama", "hidden_size": 48, "num_attention_heads": 7}'])
def test_a_broken_config_is_corruption_not_lack_of_support(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CorruptCheckpoint, match=r"config\.json") as caught:
        anatomy_of_config(tmp_path)
    assert "download the model again" in caught.value.hint
