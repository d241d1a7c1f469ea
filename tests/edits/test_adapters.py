"""Adapters that others published: the edit answers as PEFT does with the adapter, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, TrainableTokensConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from ember_hub.edits.difference import edited_token_ids
from ember_hub.edits.edit import Replaced
from ember_hub.errors import CorruptCheckpoint, EmberHubError, EmptyEdit, ModelNotFound, ShapeMismatch, UnsupportedModel
from ember_hub.progress import Quiet
from ember_hub.publish.export import export_model
from ember_hub.publish.patch import make_patch
from ember_hub.source.anatomy import anatomy_of_config
from tests.edits.published import EMBEDDING, HEAD, MODELS, adapted, audited, read, refuse
from tests.models import pico_llama
from tests.publish.edits import base_of, ember_edit


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 5, **options})


DOWN = ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]
C_FC = [f"transformer.h.{layer}.mlp.c_fc.weight" for layer in range(2)]
BIASES = ["transformer.ln_f.bias", *(f"transformer.h.{layer}.{module}.bias" for layer in range(2) for module in (
    "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"))]
ADAPTERS = {
    "lora": ("llama_folder", lora(target_modules=["down_proj"]), DOWN),
    "one layer, rank-stabilized": (
        "llama_folder", lora(target_modules=["down_proj"], layers_to_transform=[1], use_rslora=True), DOWN[1:2]),
    "ranks and alphas by pattern": ("llama_folder", lora(target_modules=["down_proj"], rank_pattern={"1.mlp.down_proj": 2},
                                                         alpha_pattern={r"layers\.[02]\.mlp\.down_proj": 11}), DOWN),
    "dora": ("llama_folder", lora(target_modules=["down_proj", "embed_tokens"], use_dora=True), [EMBEDDING, *DOWN]),
    "transposed": ("gpt2_folder", lora(target_modules=["c_fc"], fan_in_fan_out=True), C_FC),
    "transposed dora": ("gpt2_folder", lora(target_modules=["c_fc"], fan_in_fan_out=True, use_dora=True), C_FC),
    # PEFT 0.20 saves no bias of `lora_only`.
    **({} if version("peft").startswith("0.20.") else {
        "biases of its maps": ("gpt2_folder", lora(target_modules=["c_fc"], fan_in_fan_out=True, bias="lora_only"),
                               sorted([*C_FC, *(name.replace("weight", "bias") for name in C_FC)]))}),
    "biases": ("gpt2_folder", lora(target_modules=["c_fc"], fan_in_fan_out=True, bias="all"), [*C_FC, *BIASES]),
    "embedding": ("gemma_folder", lora(target_modules=["embed_tokens"]), [EMBEDDING]),
    "tied embedding": ("tied_llama_folder", lora(target_modules=["embed_tokens"], ensure_weight_tying=True), [HEAD, EMBEDDING]),
    "tied head": ("tied_llama_folder", lora(target_modules=["lm_head"]), [HEAD]),
    "saved modules": ("tied_llama_folder", lora(target_modules=["down_proj"], modules_to_save=["embed_tokens", "model.norm"]),
                      [EMBEDDING, *DOWN, "model.norm.weight"]),
    "tokens": ("llama_folder", TrainableTokensConfig(token_indices=[99, 5], task_type="CAUSAL_LM"), [EMBEDDING]),
    "tied tokens": ("gemma_folder", TrainableTokensConfig(token_indices=[99, 5], task_type="CAUSAL_LM"), [HEAD, EMBEDDING]),
    "tokens beside lora": (
        "tied_llama_folder", lora(target_modules=["down_proj"], trainable_token_indices=[99, 5]), [HEAD, EMBEDDING, *DOWN]),
    "tokens of the head": ("llama_folder", lora(target_modules=["down_proj"], trainable_token_indices={"lm_head": [99, 5]}),
                           [HEAD, *DOWN]),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_read_as_peft_itself_answers(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model, config, parameters = ADAPTERS[name]
    folder: Path = request.getfixturevalue(model)
    expected = adapted(folder, tmp_path / "adapter", config)
    edit = read(folder, tmp_path / "adapter")
    assert sorted(edit.changes) == sorted(parameters)
    assert edit.provenance["kind"] == "adapter"
    torch.testing.assert_close(audited(folder, edit), expected, rtol=0, atol=1e-5)
    assert name not in ("tokens", "tied tokens") or torch.equal(audited(folder, edit), expected)
    for change in edit.changes.values():
        assert isinstance(change, Replaced) or change.token_ids.tolist() == [5, 99]


def test_an_adapter_of_few_rows_becomes_those_rows(gemma_folder: Path, tmp_path: Path) -> None:
    adapted(gemma_folder, tmp_path / "adapter", lora(target_modules=["embed_tokens"]))
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    kept = torch.zeros(768).index_fill(0, torch.tensor([5, 99]), 1.0)
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] *= kept
    save_file(tensors, path)
    edit = read(gemma_folder, tmp_path / "adapter")
    assert edited_token_ids(edit, anatomy_of_config(gemma_folder)).tolist() == [5, 99]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_on_a_coarse_base_is_rounded_once(tmp_path: Path) -> None:
    base = pico_llama(tmp_path / "base", dtype=torch.bfloat16)
    adapted(base, tmp_path / "adapter", lora(target_modules=["down_proj"]))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base).float(), tmp_path / "adapter").merge_and_unload()
    for name, change in read(base, tmp_path / "adapter").changes.items():
        torch.testing.assert_close(change.values, merged.get_parameter(name).bfloat16(), rtol=2**-7, atol=0)
        assert (change.values == merged.get_parameter(name).bfloat16()).float().mean() > 0.999


@pytest.mark.parametrize("name", MODELS)
def test_our_own_patch_is_read_back_as_its_rows(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    anatomy = anatomy_of_config(folder)
    make_patch(base_of(folder), anatomy, ember_edit(anatomy), tmp_path / "patch")
    export_model(folder, anatomy, ember_edit(anatomy), tmp_path / "out", Quiet())
    patch, full = read(folder, tmp_path / "patch"), read(folder, tmp_path / "out")
    assert patch.changes.keys() == full.changes.keys() == {anatomy.embedding}
    assert torch.equal(patch.changes[anatomy.embedding].values, full.changes[anatomy.embedding].values)
    assert patch.provenance["kind"] == "adapter"


@pytest.mark.parametrize(("config", "kind", "said", "hint"), [
    (IA3Config(task_type="CAUSAL_LM", target_modules=["down_proj"], feedforward_modules=["down_proj"]),
     UnsupportedModel, "of the type IA3", "merge_and_unload"),
    (lora(target_modules=["c_fc"], lora_bias=True, fan_in_fan_out=True), UnsupportedModel, "lora_bias=True", "merge_and_unload"),
    (lora(target_modules=["down_proj"], layer_replication=[[0, 2], [1, 3]]), UnsupportedModel, "layer_replication", "merge"),
    (lora(target_modules=["down_proj"], init_lora_weights="pissa"), UnsupportedModel, "init_lora_weights='pissa'", "merge"),
], ids=["ia3", "bias", "replicated layers", "pissa"])
def test_an_adapter_that_is_no_change_of_parameters_is_refused(
        config: PeftConfig, kind: type[EmberHubError], said: str, hint: str, llama_folder: Path, gpt2_folder: Path,
        tmp_path: Path) -> None:
    base = gpt2_folder if getattr(config, "lora_bias", False) else llama_folder
    adapted(base, tmp_path / "adapter", config)
    refuse(base, tmp_path / "adapter", kind, said, hint)


@pytest.mark.parametrize(("config", "said"), [
    (lora(target_modules=["down_proj"]), r"down_proj.weight of the base is \(48, 96\), the adapter changes it by \(64, 3\)"),
    (lora(target_modules=["q_norm", "o_proj"], modules_to_save=["q_norm"]), "q_norm.weight, which .* does not have"),
    (lora(target_modules=["embed_tokens"]), r"the copy of .*, \(768, 64\), is not that of the base, \(768, 48\)"),
    (TrainableTokensConfig(token_indices=[5], task_type="CAUSAL_LM"), r"replaces 1 rows, the highest 5, by \(1, 64\)"),
    (lora(target_modules=["o_proj"], modules_to_save=["embed_tokens"]), r"\(768, 64\), in the base \(768, 48\)"),
], ids=["matrix", "no such module", "frozen copy", "rows", "saved module"])
def test_an_adapter_for_another_base_is_refused(config: PeftConfig, said: str, llama_folder: Path, gemma_folder: Path,
                                                tmp_path: Path) -> None:
    adapted(gemma_folder, tmp_path / "adapter", config)
    refuse(llama_folder, tmp_path / "adapter", ShapeMismatch, said, "made")


@pytest.mark.parametrize(("ids", "kind", "said", "hint"), [
    ([5, 768], ShapeMismatch, r"\(768, 48\), the adapter replaces 2 rows, the highest 768,", "made for"),
    ([5, 5], CorruptCheckpoint, "does not say which rows of model.embed_tokens.weight", "again"),
    (None, CorruptCheckpoint, "does not say which rows of model.embed_tokens.weight", "again"),
], ids=["beyond the vocabulary", "twice", "none"])
def test_rows_that_the_base_does_not_have_are_refused(ids: list[int] | None, kind: type[EmberHubError], said: str, hint: str,
                                                      llama_folder: Path, tmp_path: Path) -> None:
    adapted(llama_folder, tmp_path, TrainableTokensConfig(token_indices=[5, 6], task_type="CAUSAL_LM"))
    told = tmp_path / "adapter_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"token_indices": ids}))
    refuse(llama_folder, tmp_path, kind, said, hint)


def drop_b(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors.pop(next(name for name in tensors if "lora_B" in name))


def no_step(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        tensor *= "lora_A" in name


def not_a_number(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    next(iter(tensors.values())).fill_(torch.inf)


@pytest.mark.parametrize(("damage", "kind", "said", "hint"), [
    (drop_b, CorruptCheckpoint, "holds of its change of .* only: A", "again"),
    (no_step, EmptyEdit, "in every value", "name the edited model"),
    (not_a_number, CorruptCheckpoint, "not numbers", "again"),
    (lambda _, config: config.update(alpha_pattern={"(": 3}), CorruptCheckpoint, "gives no scale", "again"),
    (lambda _, config: config.pop("lora_alpha"), CorruptCheckpoint, "gives no scale", "again"),
    (lambda _, config: config.pop("peft_type"), CorruptCheckpoint, "not the config of an adapter", "again"),
], ids=["half", "no step", "infinite", "pattern", "no scale", "no type"])
def test_a_damaged_adapter_is_refused(damage: Callable, kind: type[EmberHubError], said: str, hint: str, llama_folder: Path,
                                      tmp_path: Path) -> None:
    adapted(llama_folder, tmp_path, lora(target_modules=["down_proj"]))
    weights, told = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    tensors, config = load_file(weights), json.loads(told.read_text())
    damage(tensors, config)
    save_file(tensors, weights)
    told.write_text(json.dumps(config))
    refuse(llama_folder, tmp_path, kind, said, hint)


def test_missing_and_ambiguous_files_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    adapted(llama_folder, tmp_path, lora(target_modules=["down_proj"]))
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    config.rename(tmp_path / "kept")
    refuse(llama_folder, tmp_path, ModelNotFound, "no file .*adapter_config.json", "folder that holds the adapter")
    (tmp_path / "kept").rename(config)
    weights.rename(tmp_path / "adapter_model.bin")
    refuse(llama_folder, tmp_path, UnsupportedModel, "only pickled weights", "save it again")
    (tmp_path / "adapter_model.bin").unlink()
    refuse(llama_folder, tmp_path, ModelNotFound, "no file .*adapter_model.safetensors", "check the folder")
    (tmp_path / "model.safetensors").touch()
    refuse(llama_folder, tmp_path, UnsupportedModel, "both a full model and an adapter", "one of the two")
