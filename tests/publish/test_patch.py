"""The patch: a small adapter with the embedding's rows, exact, reversible, and honest about what it does not carry."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ember_hub.edits.edit import Edit, Replaced, ReplacedRows
from ember_hub.errors import DiskError, EditError, EmptyEdit
from ember_hub.progress import Quiet
from ember_hub.publish.export import as_stored, export_model
from ember_hub.publish.patch import make_patch
from ember_hub.publish.reload import probe
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.load import load
from tests.models import SENTENCES
from tests.publish.edits import IDS, base_of, ember_edit, trained_edit

INPUTS = [sorted(IDS)[:20], [5, 99, 17, 98]]


def test_an_untied_patch_holds_exactly_the_rows_of_the_full_model(llama_folder: Path, tmp_path: Path) -> None:
    anatomy = anatomy_of_config(llama_folder)
    make_patch(base_of(llama_folder, "org/pico"), anatomy, ember_edit(anatomy), tmp_path / "patch")
    export_model(llama_folder, anatomy, ember_edit(anatomy), tmp_path / "model", Quiet())
    config = read(tmp_path / "patch/adapter_config.json")
    assert (config["peft_type"], config["target_modules"]) == ("TRAINABLE_TOKENS", "model.embed_tokens")
    assert config["token_indices"] == sorted(IDS)
    assert config["base_model_name_or_path"] == "org/pico"
    tensors = load_file(tmp_path / "patch/adapter_model.safetensors")
    full = Checkpoint.open(tmp_path / "model").read_rows(anatomy.embedding, sorted(IDS))
    assert list(tensors) == ["base_model.model.model.embed_tokens.trainable_tokens_delta"]
    assert torch.equal(*tensors.values(), full)


@pytest.mark.parametrize("name", ["tied_llama_folder", "gemma_folder", "gpt2_folder"])
def test_a_tied_patch_guards_the_head_with_an_original_row(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    anatomy = anatomy_of_config(folder)
    make_patch(base_of(folder), anatomy, ember_edit(anatomy), tmp_path / "patch")
    config = read(tmp_path / "patch/adapter_config.json")
    module = anatomy.embedding.removesuffix(".weight")
    (guard,) = config["trainable_token_indices"]["lm_head"]
    assert config["trainable_token_indices"][module] == sorted(IDS)
    assert guard not in IDS
    assert config["ensure_weight_tying"] is False
    tensors = load_file(tmp_path / "patch/adapter_model.safetensors")
    original = Checkpoint.open(folder).read_rows(anatomy.embedding, [guard])
    assert torch.equal(tensors["base_model.model.lm_head.token_adapter.trainable_tokens_delta"], original)


@pytest.mark.parametrize("ids", [[0], [7], [0, 1, 2], list(range(767)), list(range(768))], ids=len)
def test_the_guard_is_another_row_than_the_edited_ones_where_there_is_any(ids: list[int], tied_llama_folder: Path,
                                                                         tmp_path: Path) -> None:
    anatomy = anatomy_of_config(tied_llama_folder)
    edit = Edit({anatomy.embedding: ReplacedRows(torch.tensor(ids), torch.ones(len(ids), anatomy.d_model))})
    make_patch(base_of(tied_llama_folder), anatomy, edit, tmp_path / "patch")
    guard = read(tmp_path / "patch/adapter_config.json")["trainable_token_indices"]["lm_head"]
    assert guard != ids
    assert guard[0] < anatomy.vocab
    assert len(ids) == anatomy.vocab or guard[0] not in ids


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["llama_folder", "tied_llama_folder", "gemma_folder", "gpt2_folder"])
def test_peft_itself_answers_as_the_edited_model_and_gives_the_base_back(name: str, tmp_path: Path,
                                                                        request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    loaded = load(folder, "cpu")
    edit = as_stored(folder, ember_edit(loaded.anatomy))
    make_patch(base_of(folder), loaded.anatomy, edit, tmp_path / "patch")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "patch").eval()
    asked = replace(loaded, model=adapted)
    assert torch.equal(probe(asked, Edit.none(), INPUTS), probe(loaded, edit, INPUTS))
    with adapted.disable_adapter():
        assert torch.equal(probe(asked, Edit.none(), INPUTS), probe(loaded, Edit.none(), INPUTS))


def test_the_patch_tells_its_base_and_can_be_undone_and_checked(gemma_folder: Path, tmp_path: Path) -> None:
    loaded = load(gemma_folder, "cpu")
    edit = ember_edit(loaded.anatomy).then(trained_edit(loaded.anatomy, loaded.model))
    make_patch(base_of(gemma_folder, "org/gemma"), loaded.anatomy, edit, tmp_path / "patch", left_out=["rmu"])
    about = read(tmp_path / "patch/ember_patch.json")
    assert about["schema"] == 1
    assert about["base"] == {"repo": "org/gemma", "commit": "0123abcd", "source": "folder"}
    assert about["not_carried"] == {"methods": ["rmu"], "parameters": [loaded.anatomy.mlp_writers[1]]}
    assert (about["d_model"], about["dtype"], about["embed_scale"]) == (64, "float32", 8.0)
    undo = load_file(tmp_path / "patch/undo.safetensors")
    original = Checkpoint.open(gemma_folder).read_rows(loaded.anatomy.embedding, sorted(IDS))
    assert undo["token_ids"].tolist() == about["token_ids"] == sorted(IDS)
    assert torch.equal(undo["rows"], original)
    assert about["original_rows_sha256"] == sha256(original.numpy().tobytes()).hexdigest()
    new = load_file(tmp_path / "patch/adapter_model.safetensors")
    rows = new["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert about["new_rows_sha256"] == sha256(rows.numpy().tobytes()).hexdigest()


def test_the_patch_brings_tokenizer_and_licence_and_stays_small(llama_folder: Path, tmp_path: Path) -> None:
    anatomy = anatomy_of_config(llama_folder)
    make_patch(base_of(llama_folder), anatomy, ember_edit(anatomy), tmp_path / "patch")
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "patch", llama_folder))
    assert ours(list(SENTENCES))["input_ids"] == theirs(list(SENTENCES))["input_ids"]
    assert ours.chat_template == theirs.chat_template
    assert not (tmp_path / "patch/config.json").exists()
    assert sum(path.stat().st_size for path in (tmp_path / "patch").iterdir()) < 100_000


def test_what_is_no_patch_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    loaded = load(llama_folder, "cpu")
    base, out = base_of(llama_folder), tmp_path / "patch"
    with pytest.raises(EmptyEdit, match="does not touch the embedding") as empty:
        make_patch(base, loaded.anatomy, trained_edit(loaded.anatomy, loaded.model), out)
    assert "--as full" in empty.value.hint
    whole = Edit({loaded.anatomy.embedding: Replaced(torch.ones(768, 48))})
    with pytest.raises(EditError, match="as a whole") as error:
        make_patch(base, loaded.anatomy, whole, out)
    assert "--as full" in error.value.hint
    (tmp_path / "letter.txt").write_text("Dear Anna")
    with pytest.raises(DiskError, match="no earlier export"):
        make_patch(base, loaded.anatomy, ember_edit(loaded.anatomy), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_new_patch_replaces_the_earlier_one(llama_folder: Path, tmp_path: Path) -> None:
    anatomy, base = anatomy_of_config(llama_folder), base_of(llama_folder)
    for strength in (1.0, 0.5):
        make_patch(base, anatomy, ember_edit(anatomy).scaled(strength), tmp_path / "patch")
    make_patch(base, anatomy, ember_edit(anatomy).scaled(0.5), tmp_path / "fresh")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["fresh", "patch"]
    for path in (tmp_path / "fresh").iterdir():
        assert (tmp_path / "patch" / path.name).read_bytes() == path.read_bytes()


def test_making_a_patch_needs_neither_peft_nor_the_hub() -> None:
    code = ("import sys, ember_hub.publish.export, ember_hub.publish.patch, ember_hub.publish.reload;"
            "sys.exit(str({'peft', 'transformers', 'huggingface_hub'} & set(sys.modules) or ''))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))
