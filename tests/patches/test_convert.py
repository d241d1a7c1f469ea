"""The other formats of a patch: what they lose is said, and is nothing in float32 worth a bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ember_hub.errors import DiskError, PatchInvalid
from ember_hub.patches.apply import apply
from ember_hub.patches.convert import to_lora_embed, to_tokens
from ember_hub.patches.folder import save
from ember_hub.patches.gguf_adapter import write_gguf
from ember_hub.patches.numerics import decode
from ember_hub.patches.patch import Patch
from ember_hub.progress import Quiet
from tests.patches.test_apply import logits
from tests.publish.edits import IDS

ULP = {"F32": 2.0**-23, "BF16": 2.0**-7}


def test_there_and_back_the_rows_are_within_the_stated_error(kind: str, patches: dict[str, Path], tmp_path: Path) -> None:
    patch = Patch.open(patches[kind])
    there = to_lora_embed(patch)
    save(there.patch, tmp_path / "lora", companions_of=patches[kind])
    back = to_tokens(Patch.open(tmp_path / "lora")).patch
    save(back, tmp_path / "tokens", companions_of=tmp_path / "lora")
    again = Patch.open(tmp_path / "tokens")
    error = np.abs(again.deltas("compare") - patch.deltas("compare"))
    assert error.max() == there.error
    assert (error <= 2 * ULP[patch.table.dtype] * np.abs(decode(patch.rows, patch.table.dtype)).max()).all()
    assert (error > 0).any(axis=1).sum() == there.differing
    assert (again.guard is None) == (patch.guard is None)
    assert there.patch.factors is not None
    assert there.patch.factors.rank == 3, "the rank of the edit, not that of its rounded rows"
    assert (tmp_path / "tokens/tokenizer.json").read_bytes() == (patches[kind] / "tokenizer.json").read_bytes()


def test_an_edit_whose_factors_are_not_known_is_factored(patches: dict[str, Path], tmp_path: Path) -> None:
    for kind, limit in (("untied", 1e-6), ("tied-bf16", 0.0)):
        (folder := tmp_path / kind).mkdir()
        for path in patches[kind].iterdir():
            if path.name != "factors.safetensors":
                (folder / path.name).write_bytes(path.read_bytes())
        patch = Patch.open(folder)
        assert patch.factors is None
        assert to_lora_embed(patch).error <= limit
        errors = [to_lora_embed(patch, rank).error for rank in (1, 2, 3)]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 0.01
    with pytest.raises(PatchInvalid, match="no change of rank 37") as refused:
        to_lora_embed(patch, 37)
    assert "1 to 36" in refused.value.hint


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
# PEFT warns of tied weights: the LoRA of an embedding leaves the head alone, which is what is tested here.
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_peft_with_the_lora_answers_as_the_applied_folder(kind: str, bases: dict[str, Path], patches: dict[str, Path],
                                                         tmp_path: Path) -> None:
    lora = to_lora_embed(Patch.open(patches[kind])).patch
    save(lora, tmp_path / "lora", companions_of=patches[kind])
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[kind], dtype=torch.float32), tmp_path / "lora")
    apply(lora, bases[kind], tmp_path / "out", Quiet())
    exact = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    plain = logits(AutoModelForCausalLM.from_pretrained(bases[kind], dtype=torch.float32))
    # The factors are not rounded to the base's type, the rows are.
    assert (logits(adapted) - exact).abs().max() < (0.2 if kind.endswith("bf16") else 1e-3)
    assert (plain - exact).abs().max() > 1


def test_a_gguf_adapter_lies_as_llama_cpp_looks_it_up(patches: dict[str, Path], tmp_path: Path) -> None:
    patch = to_lora_embed(Patch.open(patches["untied"])).patch
    write_gguf(patch, tmp_path / "adapter.gguf")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert (said["general.type"], said["general.architecture"], said["adapter.type"]) == ("adapter", "llama", "lora")
    a, b = {tensor.name: tensor for tensor in reader.tensors}.values()
    assert (a.name, b.name) == ("token_embd.weight.lora_a", "token_embd.weight.lora_b")
    # In ggml's order: a row of A for each token, a row of B for each dimension, each of the length of the rank.
    assert (a.shape.tolist(), b.shape.tolist()) == ([3, 768], [3, 48])
    assert said["adapter.lora.alpha"] == a.shape[0], "llama.cpp multiplies by alpha / rank"
    moved = a.data[sorted(IDS)] @ b.data.T
    assert np.allclose(moved, patch.deltas("look at them"), atol=1e-6)
    assert not a.data[[token for token in range(768) if token not in IDS]].any()


def test_what_llama_cpp_cannot_use_is_not_written(patches: dict[str, Path], tmp_path: Path) -> None:
    tied = to_lora_embed(Patch.open(patches["tied"])).patch
    with pytest.raises(PatchInvalid, match="output head") as refused:
        write_gguf(tied, tmp_path / "adapter.gguf")
    assert "patch apply" in refused.value.hint
    untied = to_lora_embed(Patch.open(patches["untied"])).patch
    object.__setattr__(untied.table, "model_type", "unheard-of")
    with pytest.raises(PatchInvalid, match="unheard-of") as unknown:
        write_gguf(untied, tmp_path / "adapter.gguf")
    assert "--architecture" in unknown.value.hint
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "adapter.gguf").write_text("Dear Anna")
    with pytest.raises(DiskError, match="exists already"):
        write_gguf(untied, tmp_path / "adapter.gguf", "llama")
