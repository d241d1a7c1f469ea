"""Loading for editing: frozen, untied, and suspicious of what transformers lets pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ember_hub.errors import ConfigError, CorruptCheckpoint, SourceError, UnsupportedModel
from ember_hub.source.anatomy import empty_model
from ember_hub.source.load import load, load_tokenizer
from ember_hub.source.memory import available_memory, embedding_bytes, model_bytes, parameter_count

FOLDERS = ["llama_folder", "tied_llama_folder", "sharded_llama_folder", "gemma_folder", "gpt2_folder"]
TIED = ["tied_llama_folder", "gemma_folder", "gpt2_folder"]


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_a_loaded_model_is_frozen_in_eval_mode_and_says_what_the_checkpoint_says(folder: Path) -> None:
    loaded = load(folder)
    original = AutoModelForCausalLM.from_pretrained(folder)
    ids = loaded.tokenizer("The vaccine was given", return_tensors="pt").input_ids
    assert torch.equal(loaded.model(ids).logits, original(ids).logits)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.dtype, loaded.device) == (torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("folder", TIED, indirect=True)
def test_editing_the_embedding_of_a_tied_model_leaves_its_head_alone(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    assert loaded.anatomy.is_tied
    head = loaded.model.get_output_embeddings().weight
    before = head.clone()
    # transformers ties again here, if anything still tells it to.
    loaded.model.tie_weights()
    loaded.model.get_input_embeddings().weight[7] += 1.0
    assert loaded.model.get_output_embeddings().weight is head
    assert torch.equal(head, before)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert not again.anatomy.is_tied
    assert torch.equal(again.model.get_output_embeddings().weight, before)
    assert torch.equal(again.model.get_input_embeddings().weight[7], before[7] + 1.0)


def test_bfloat16_on_request_and_what_it_takes(tied_llama_folder: Path) -> None:
    loaded = load(tied_llama_folder, device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    expected = model_bytes(empty_model(tied_llama_folder), torch.bfloat16)
    assert sum(parameter.nbytes for parameter in loaded.model.parameters()) == expected
    table = embedding_bytes(loaded.anatomy, torch.bfloat16)
    assert expected == 2 * parameter_count(empty_model(tied_llama_folder)) + table
    assert available_memory() > expected


@pytest.mark.parametrize(("options", "match"), [
    ({"dtype": "int3"}, "dtype"), ({"device": "abacus"}, "device"), ({"device": "cuda"}, "CUDA")])
def test_a_place_or_precision_that_does_not_exist_is_a_setting_to_mend(llama_folder: Path, options: dict[str, str],
                                                                     match: str) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ConfigError, match=match) as caught:
        load(llama_folder, **options)
    assert "use" in caught.value.hint


def set_config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return damage


def set_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200_000])


@pytest.mark.parametrize(("damage", "match"), [
    (cut, "should have"),
    (set_nan, "model.norm.weight .* not numbers"),
    (set_config(num_hidden_layers=5), "18 weights are missing"),
    (set_config(intermediate_size=80), r"is \(48, 96\), but its config.json says \(48, 80\)"),
    (set_config(tie_word_embeddings=False), "first is lm_head.weight"),
], ids=["truncated", "not a number", "layers missing", "other shape", "head missing"])
def test_weights_that_transformers_would_replace_by_random_ones_are_refused(
        tied_llama_folder: Path, tmp_path: Path, damage: Callable[[Path], None], match: str) -> None:
    folder = shutil.copytree(tied_llama_folder, tmp_path / "model")
    damage(folder)
    with pytest.raises(CorruptCheckpoint, match=match) as caught:
        load(folder)
    assert "download" in caught.value.hint


def test_a_quantized_checkpoint_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    set_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})(folder)
    with pytest.raises(UnsupportedModel, match="quantized") as caught:
        load(folder)
    assert "original checkpoint" in caught.value.hint


@pytest.mark.parametrize("text", [None, "{", "[]", '{"added_tokens": [], "model": {"type": "Nope"}}'])
def test_a_missing_or_broken_tokenizer_is_told_with_a_way_out(llama_folder: Path, tmp_path: Path,
                                                            text: str | None) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(SourceError, match="tokenizer") as caught:
        load_tokenizer(folder)
    assert "tokenizer.json" in caught.value.hint


class Recorder:
    """A progress that remembers how far each piece of work came."""

    def __init__(self) -> None:
        self.done: dict[str, list[int]] = {}

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        self.done[title] = [0, total]

        def advance(done: int) -> None:
            self.done[title][0] += done

        yield advance

    def say(self, stage: str, text: str) -> None:
        pass


def test_the_progress_of_transformers_becomes_ours_and_nothing_is_printed(llama_folder: Path,
                                                                        capfd: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    load(llama_folder, progress=recorder)
    (title, (done, total)), = recorder.done.items()
    assert title == "loading weights"
    assert done == total > 0
    assert capfd.readouterr() == ("", "")
