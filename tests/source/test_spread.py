"""Models larger than one device: what an edit changes stays in reach, and a plan that cannot fit says what would."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload

from ember_hub.edits.apply import applied
from ember_hub.edits.edit import Edit, Replaced, ReplacedRows
from ember_hub.errors import ConfigError, NotEnoughMemory, UnsupportedModel
from ember_hub.evaluation.attacks.quantization import nf4, quantize
from ember_hub.source.anatomy import empty_model, read_anatomy
from ember_hub.source.load import LoadedModel, load
from ember_hub.source.spread import Spread, layout, quantized_modules, require_fit, sizes, stored
from tests.models import pico_llama
from tests.toy_run import Toy, ember_hub

EMBEDDING = "model.embed_tokens.weight"
IDS = torch.tensor([[5, 6, 7, 8]])
ROW = Edit({EMBEDDING: ReplacedRows(torch.tensor([5]), torch.zeros(1, 48))})


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(IDS).logits.float()


def test_a_model_that_lies_partly_on_disk_answers_and_is_edited_as_the_whole_one(sharded_llama_folder: Path, tmp_path: Path
                                                                                 ) -> None:
    whole, spread = load(sharded_llama_folder), Spread("auto", {"cpu": "400KB"}, tmp_path, dense=("model.layers.2",))
    parted = load(sharded_llama_folder, spread=spread)
    places = parted.model.hf_device_map
    assert "disk" in places.values()
    assert places["model.embed_tokens"] == places["model.layers.2"] == "cpu", "what an edit changes is held"
    assert torch.equal(logits(parted), logits(whole))
    with applied(parted.model, ROW), applied(whole.model, ROW):
        assert torch.equal(logits(parted), logits(whole))
    assert torch.equal(logits(parted), logits(whole)), "and back again"


def test_an_edit_of_a_part_that_lies_on_disk_is_refused(sharded_llama_folder: Path, tmp_path: Path) -> None:
    parted = load(sharded_llama_folder, spread=Spread("auto", {"cpu": "400KB"}, tmp_path))
    name = next(n for n, p in parted.model.named_parameters() if p.is_meta and n.endswith("down_proj.weight"))
    with pytest.raises(UnsupportedModel, match="lies on disk") as caught, applied(
            parted.model, Edit({name: Replaced(torch.zeros(48, 96))})):
        pass
    assert "--max-memory" in caught.value.hint


def test_a_parameter_that_waits_in_the_cpus_memory_is_edited_there(llama_folder: Path) -> None:
    whole, waiting = load(llama_folder), load(llama_folder)
    cpu_offload(waiting.model, execution_device=torch.device("cpu"))
    assert waiting.model.get_parameter(EMBEDDING).is_meta
    with applied(waiting.model, ROW), applied(whole.model, ROW):
        assert torch.equal(stored(waiting.model, EMBEDDING)[5], torch.zeros(48))
        assert torch.equal(logits(waiting), logits(whole))
    assert torch.equal(logits(waiting), logits(whole))


def test_a_plan_that_cannot_fit_says_what_would(llama_folder: Path) -> None:
    plan = empty_model(llama_folder)
    with pytest.raises(NotEnoughMemory) as caught:
        require_fit(plan, torch.float32, EMBEDDING, Spread("auto", {"cpu": "400KB"}))
    assert "--quantization 4bit" in caught.value.hint
    assert "--offload" in caught.value.hint
    with pytest.raises(NotEnoughMemory, match="embedding") as caught:
        layout(plan, torch.float32, EMBEDDING, Spread("auto", {"cpu": "50KB"}))
    assert "--max-memory cpu=" in caught.value.hint
    with pytest.raises(ConfigError, match="max_memory") as caught:
        layout(plan, torch.float32, EMBEDDING, Spread("auto", {"cpu": "much"}))
    assert "cpu=64GB" in caught.value.hint


def test_what_is_trained_is_not_quantized_and_sizes_say_so(tmp_path: Path) -> None:
    plan = empty_model(pico_llama(tmp_path / "model"))
    spread = Spread(quantization="4bit", dense=("model.layers.1",))
    taken = quantized_modules(plan, spread)
    assert "model.layers.0.mlp.down_proj" in taken
    assert not taken & {"model.layers.1.mlp.down_proj", "lm_head", read_anatomy(plan).embedding.removesuffix(".weight")}
    held = sizes(plan, torch.bfloat16, spread)
    assert held["model.layers.0.mlp.down_proj.weight"] < held["model.layers.1.mlp.down_proj.weight"] / 3


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_a_quantized_model_is_edited_where_it_is_dense(tmp_path: Path, bits: str) -> None:
    folder = pico_llama(tmp_path / "model", width=128)
    whole, small = load(folder, dtype="bfloat16"), load(
        folder, dtype="bfloat16", spread=Spread(quantization=bits, dense=("model.layers.1",)))
    before = logits(small)
    assert 0 < (before - logits(whole)).abs().max() < 0.5 * logits(whole).abs().max()
    trained = Edit({"model.layers.1.mlp.down_proj.weight": Replaced(torch.zeros(128, 256))})
    with applied(small.model, trained):
        assert not torch.equal(logits(small), before)
    assert torch.equal(logits(small), before)
    with pytest.raises(UnsupportedModel, match="few bits") as caught, applied(
            small.model, Edit({"model.layers.0.mlp.down_proj.weight": Replaced(torch.zeros(128, 256))})):
        pass
    assert "--quantization" in caught.value.hint


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_gradients_pass_through_four_bits_as_through_the_same_numbers_dense(tmp_path: Path) -> None:
    folder = pico_llama(tmp_path / "model", width=128)
    small, dense = load(folder, dtype="bfloat16", spread=Spread(quantization="4bit")), load(folder, dtype="bfloat16")
    quantize(dense.model, nf4)
    gradients = []
    for loaded in (small, dense):
        logits(loaded)
        given = loaded.model.get_input_embeddings()(IDS).detach().requires_grad_()
        loaded.model(inputs_embeds=given).logits.float().square().mean().backward()
        gradients.append(given.grad.float().flatten())
    one, other = gradients
    assert torch.cosine_similarity(one, other, dim=0) > 0.99
    assert float(one.norm()) == pytest.approx(float(other.norm()), rel=0.05)


def test_quantized_loading_without_its_library_is_one_clear_line(llama_folder: Path) -> None:
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(UnsupportedModel, match="bitsandbytes") as caught:
        load(llama_folder, spread=Spread(quantization="4bit"))
    assert "ember-hub[quantized]" in caught.value.hint


def test_erasing_from_a_model_that_lies_partly_on_disk_gives_the_same_files(toy: Toy, tmp_path: Path) -> None:
    reports, hashes = [], []
    for name, more in (("whole", ()), ("parted", ("--device-map", "auto", "--max-memory", "cpu=700KB",
                                                  "--offload", str(tmp_path / "offload")))):
        done = ember_hub(*toy.erase(tmp_path / name), "--only", "questions", "--only", "relearn-strong", "--set", "search.trials=1",
                         "--json", *more)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
        (folder,) = (tmp_path / name / "toy-model--toy-inventors").iterdir()
        hashes.append({f.name: f.read_bytes() for f in (folder / "out").rglob("*.safetensors")})
    assert hashes[0] == hashes[1]
    attack = reports[1]["attacks"][0]
    assert "lies in parts" in attack["not_measured"]
    assert reports[0]["attacks"][0]["not_measured"] is None
