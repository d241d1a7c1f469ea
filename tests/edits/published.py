"""Models and adapters as others publish them, made from the tiny bases, and what an audit makes of them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ember_hub.edits.apply import applied
from ember_hub.edits.difference import difference
from ember_hub.edits.edit import Edit
from ember_hub.errors import EmberHubError
from ember_hub.progress import Quiet
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.load import load
from tests.publish.edits import IDS

MODELS = ("llama_folder", "tied_llama_folder", "gemma_folder", "gpt2_folder")
"""Each kind of tiny base: untied, tied, scaled, transposed."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INPUT = torch.tensor([[1, *sorted(IDS)[:20], 99, 3, 5]])


def saved(base: Path, out: Path, change: Callable[[PreTrainedModel], Any], **options: Any) -> Path:
    """A full model made from the base by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model = change(model) or model
    model.save_pretrained(out, **options)
    return out


def rewritten(base: Path, out: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **config: Any) -> Path:
    """A copy of the base with other tensors and other words in its config."""
    shutil.copytree(base, out)
    tensors = change(load_file(base / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors", {"format": "pt"})
    told = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(told | config))
    return out


def adapted(base: Path, out: Path, config: PeftConfig) -> Tensor:
    """An adapter as PEFT trains and saves it, and what PEFT answers once it has loaded it again."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # PEFT has advice about tied weights and saved embeddings, whichever way one goes.
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(out)
        return answers(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out))


def read(base: Path, edited: Path) -> Edit:
    return difference(base, edited, anatomy_of_config(base), Quiet())


def answers(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model.eval()(INPUT).logits


def audited(base: Path, edit: Edit) -> Tensor:
    """The base's logits with the edit, after a look at whether the base comes back unharmed."""
    model = load(base, "cpu").model
    before = {name: p.clone() for name, p in model.named_parameters()}
    with applied(model, edit):
        logits = answers(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not torch.equal(answers(model), logits)
    return logits


def refuse(base: Path, edited: Path, kind: type[EmberHubError], said: str, hint: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        read(base, edited)
    assert hint in caught.value.hint
