"""What others published as a full model, as an edit of the base: it answers as their model does, or it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig

from ember_hub.edits.difference import edited_token_ids, same_tokenizer
from ember_hub.edits.edit import Edit, Replaced, ReplacedRows
from ember_hub.errors import CorruptCheckpoint, EmberHubError, EmptyEdit, ModelNotFound, ShapeMismatch, UnsupportedModel
from ember_hub.progress import Quiet
from ember_hub.publish.export import export_model
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.load import load
from tests.edits.published import EMBEDDING, HEAD, MODELS, answers, audited, read, refuse, rewritten, saved
from tests.models import pico_gemma, pico_llama, pico_tokenizer
from tests.publish.edits import IDS, ember_edit, trained_edit

DOWN = "model.layers.1.mlp.down_proj.weight"


def bump(model: PreTrainedModel, parameter: str = DOWN) -> None:
    model.get_parameter(parameter)[3] += 0.1


def untrained(config: PreTrainedConfig, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_our_own_export_is_read_back_as_the_edit_that_made_it(name: str, tmp_path: Path, request: pytest.FixtureRequest
                                                              ) -> None:
    folder: Path = request.getfixturevalue(name)
    loaded = load(folder, "cpu")
    made = ember_edit(loaded.anatomy).then(trained_edit(loaded.anatomy, loaded.model))
    export_model(folder, loaded.anatomy, made, tmp_path / "out", Quiet())
    edit = read(folder, tmp_path / "out")
    assert edit.changes.keys() == made.changes.keys()
    assert edited_token_ids(edit, loaded.anatomy).tolist() == sorted(IDS)
    assert edit.provenance == {"source": "difference", "changed": 2, "rows": len(IDS), "kind": "checkpoint"}
    assert torch.equal(audited(folder, edit), answers(AutoModelForCausalLM.from_pretrained(tmp_path / "out")))


def test_a_tied_model_that_stays_tied_changes_its_head_too(tied_llama_folder: Path, tmp_path: Path) -> None:
    def change(model: PreTrainedModel) -> None:
        model.get_parameter(EMBEDDING)[[5, 99]] += 0.3

    edit = read(tied_llama_folder, saved(tied_llama_folder, tmp_path / "out", change))
    assert [(name, c.token_ids.tolist()) for name, c in edit.changes.items()] == [(EMBEDDING, [5, 99]), (HEAD, [5, 99])]
    assert torch.equal(audited(tied_llama_folder, edit), answers(AutoModelForCausalLM.from_pretrained(tmp_path / "out")))


def test_a_base_with_a_head_of_its_own_may_become_tied(llama_folder: Path, tmp_path: Path) -> None:
    def drop_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name != HEAD}

    edited = rewritten(llama_folder, tmp_path / "out", drop_head, tie_word_embeddings=True)
    edit = read(llama_folder, edited)
    assert {name: type(change) for name, change in edit.changes.items()} == {HEAD: Replaced}
    assert torch.equal(audited(llama_folder, edit), answers(AutoModelForCausalLM.from_pretrained(edited)))


def test_shards_make_no_difference(llama_folder: Path, sharded_llama_folder: Path, tmp_path: Path) -> None:
    edited = saved(llama_folder, tmp_path / "out", bump)
    assert read(sharded_llama_folder, edited).changes.keys() == {DOWN}
    with pytest.raises(EmptyEdit, match="byte for byte"):
        read(llama_folder, sharded_llama_folder)


def test_another_dtype_is_rounded_to_the_bases_and_told(tmp_path: Path) -> None:
    base = pico_llama(tmp_path / "base", dtype=torch.bfloat16)

    def change(model: PreTrainedModel) -> PreTrainedModel:
        bump(model)
        return model.float()

    edit = read(base, saved(base, tmp_path / "out", change))
    assert edit.changes.keys() == {DOWN}
    assert edit.changes[DOWN].values.dtype == torch.bfloat16
    assert edit.provenance["dtypes"] == "float32 as bfloat16"


def test_a_padded_vocabulary_is_compared_where_both_have_rows(llama_folder: Path, tmp_path: Path) -> None:
    def change(model: PreTrainedModel) -> None:
        model.resize_token_embeddings(800, mean_resizing=False)
        model.get_parameter(EMBEDDING)[5] += 0.3

    edited = saved(llama_folder, tmp_path / "out", change)
    edit = read(llama_folder, edited)
    assert edit.changes[EMBEDDING].token_ids.tolist() == [5]
    assert edit.provenance == {"source": "difference", "changed": 1, "rows": 1, "kind": "checkpoint", "rows_left_out": 32}
    assert torch.equal(audited(llama_folder, edit), answers(AutoModelForCausalLM.from_pretrained(edited))[..., :768])
    shutil.copy(llama_folder / "tokenizer.json", edited)
    with pytest.raises(ShapeMismatch, match=r"\(768, 48\), in the base \(800, 48\)"):
        read(edited, llama_folder)


def test_a_quarter_of_the_rows_is_a_change_of_rows_and_more_is_another_table(llama_folder: Path, tmp_path: Path) -> None:
    kinds = []
    for rows in (192, 193):
        def change(model: PreTrainedModel, rows: int = rows) -> None:
            model.get_parameter(EMBEDDING)[:rows] += 0.3

        edit = read(llama_folder, saved(llama_folder, tmp_path / str(rows), change))
        kinds.append(type(edit.changes[EMBEDDING]))
    assert kinds == [ReplacedRows, Replaced]
    assert len(edited_token_ids(edit, anatomy_of_config(llama_folder))) == 768
    assert len(edited_token_ids(Edit({HEAD: edit.changes[EMBEDDING]}), anatomy_of_config(llama_folder))) == 0


def test_names_without_the_models_prefix_are_understood(gpt2_folder: Path, tmp_path: Path) -> None:
    def strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["transformer.h.0.attn.c_attn.bias"] += 1
        return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    edited = rewritten(gpt2_folder, tmp_path / "out", strip)
    edit = read(gpt2_folder, edited)
    assert edit.changes.keys() == {"transformer.h.0.attn.c_attn.bias"}
    assert torch.equal(audited(gpt2_folder, edit), answers(AutoModelForCausalLM.from_pretrained(edited)))


def test_a_multimodal_model_is_read_under_the_names_of_its_language_model(tmp_path: Path) -> None:
    text = {"vocab_size": 768, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    base = untrained(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1), tmp_path / "base")
    edited = saved(base, tmp_path / "out", lambda model: bump(model, "model.language_model.layers.1.mlp.down_proj.weight"))
    edit = read(base, edited)
    assert Checkpoint.open(base).tensors.keys() >= {"language_model.model.layers.1.mlp.down_proj.weight"}
    assert edit.changes.keys() == {"model.language_model.layers.1.mlp.down_proj.weight"}
    assert torch.equal(audited(base, edit), answers(AutoModelForCausalLM.from_pretrained(edited)))


def test_beside_fused_experts_everything_is_compared(tmp_path: Path) -> None:
    base = untrained(Qwen3MoeConfig(vocab_size=768, hidden_size=48, intermediate_size=96, moe_intermediate_size=32, head_dim=12,
                                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_experts=4,
                                    num_experts_per_tok=2), tmp_path / "base")
    query, experts = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.experts.down_proj"
    edit = read(base, saved(base, tmp_path / "query", lambda model: bump(model, query)))
    assert edit.changes.keys() == {query}
    assert torch.equal(audited(base, edit), answers(AutoModelForCausalLM.from_pretrained(tmp_path / "query")))
    refuse(base, saved(base, tmp_path / "experts", lambda model: bump(model, experts)), UnsupportedModel,
           "experts.3.down_proj.weight differs", "fused while loading")
    refuse(base, saved(base, tmp_path / "fused", lambda model: None, save_original_format=False), UnsupportedModel,
           "holds model.layers.0.mlp.experts.down_proj, .* does not", "use its names")


@pytest.mark.parametrize(("model", "unread"), [("llama_folder", "model.layers.0.self_attn.rotary_emb.inv_freq"),
                                               ("gpt2_folder", "transformer.h.0.attn.bias")])
def test_tensors_that_no_model_reads_may_differ_and_others_not(model: str, unread: str, tmp_path: Path,
                                                               request: pytest.FixtureRequest) -> None:
    base: Path = request.getfixturevalue(model)
    same = rewritten(base, tmp_path / "same", lambda tensors: tensors | {unread: torch.ones(4)})
    refuse(base, same, EmptyEdit, "byte for byte", "name the edited model")
    refuse(base, rewritten(base, tmp_path / "more", lambda tensors: tensors | {"v_head.summary.weight": torch.ones(4)}),
           UnsupportedModel, "v_head.summary.weight differs", "added heads")


def test_a_tokenizer_may_learn_tokens_but_not_renumber_them(llama_folder: Path, tmp_path: Path) -> None:
    for name, change in (("more", {"zzz": 768}), ("other", {"Ġthe": 767})):
        edited = saved(llama_folder, tmp_path / name, bump)
        told = json.loads((llama_folder / "tokenizer.json").read_text())
        told["model"]["vocab"] |= change
        (edited / "tokenizer.json").write_text(json.dumps(told))
        shutil.copy(llama_folder / "tokenizer_config.json", edited)
    assert same_tokenizer(llama_folder, tmp_path / "more")
    assert not same_tokenizer(llama_folder, tmp_path / "other")
    with pytest.raises(UnsupportedModel, match="gives tokens other ids") as caught:
        read(llama_folder, tmp_path / "other")
    assert "made from" in caught.value.hint


def twice(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    norm = tensors.pop("model.norm.weight")
    return tensors | {"a.model.norm.weight": norm, "b.model.norm.weight": norm.clone()}


def signed_zeros(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.where(tensor == 0, -torch.zeros(1), tensor) for name, tensor in tensors.items()}


def norm(value: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {"model.norm.weight": value}


@pytest.mark.parametrize(("change", "config", "kind", "said", "hint"), [
    (dict, {"rms_norm_eps": 1e-3}, UnsupportedModel, "rms_norm_eps 0.001 instead of 1e-06", "not what is computed"),
    (dict, {"quantization_config": {"quant_method": "fp8"}}, UnsupportedModel, "are quantized", "original checkpoint"),
    (norm(torch.ones(48).char()), {}, UnsupportedModel, "torch.int8: quantized", "before quantization"),
    (norm(torch.full([48], torch.nan)), {}, CorruptCheckpoint, "norm.weight in .* not numbers in torch.float32", "again"),
    (norm(torch.ones(64)), {}, ShapeMismatch, r"\(64,\), in the base \(48,\)", "made from"),
    (lambda tensors: {n: t for n, t in tensors.items() if "norm" not in n}, {}, CorruptCheckpoint, "lacks 7 tensors", "again"),
    (twice, {}, UnsupportedModel, "model.norm.weight of the loaded model may be a.model.norm.weight or b.model", "use its names"),
    (dict, {"rms_norm_eps": 1e-6 * (1 - 1e-8)}, EmptyEdit, "byte for byte", "name the edited model"),
    (signed_zeros, {}, EmptyEdit, "in every value", "name the edited model"),
], ids=["computed otherwise", "quantized", "integers", "nan", "another shape", "incomplete", "ambiguous", "nothing", "minus 0"])
def test_a_full_model_that_is_no_edit_is_refused(change: Callable, config: dict, kind: type[EmberHubError], said: str, hint: str,
                                                 llama_folder: Path, tmp_path: Path) -> None:
    refuse(llama_folder, rewritten(llama_folder, tmp_path / "out", change, **config), kind, said, hint)


def test_other_architectures_and_missing_files_are_refused(llama_folder: Path, gemma_folder: Path, tmp_path: Path) -> None:
    refuse(llama_folder, gemma_folder, UnsupportedModel, "model_type 'gemma3_text' instead of 'llama'", "made from")
    refuse(llama_folder, tmp_path, ModelNotFound, "neither", "folder that holds the weights")
    narrow = pico_gemma(tmp_path / "narrow", vocab=512)
    refuse(gemma_folder, narrow, UnsupportedModel, "gives tokens other ids", "made from")
