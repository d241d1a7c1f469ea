"""Adapters that others published, as what they make of a base's parameters, one parameter at a time and without PEFT.

Source: the on-disk format of PEFT; LoRA (arXiv 2106.09685), its rank-stabilized scale (arXiv 2312.03732) and DoRA
(arXiv 2402.09353).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ember_hub.errors import CorruptCheckpoint, ModelNotFound, ShapeMismatch, UnsupportedModel
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.safetensors_file import SafetensorsFile

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_MERGE = "merge it into its base with PEFT (merge_and_unload), save that model and give its folder instead"
_AGAIN = "download the adapter again, or ask its authors"
_PARTS = {
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_embedding_A": "embedding A", "lora_embedding_B": "embedding B",
    "lora_magnitude_vector": "magnitude", "token_adapter.trainable_tokens_delta": "rows", "trainable_tokens_delta": "rows",
    "base_layer.weight": "frozen copy",
}
_FORMS = ({"A", "B"}, {"A", "B", "magnitude"}, {"embedding A", "embedding B"}, {"embedding A", "embedding B", "magnitude"},
          {"rows"}, {"whole"}, set())
"""The parts that a change of one parameter may have, beside a frozen copy of the base's values."""
_UNDERSTOOD = {
    "alpha_pattern", "lora_alpha", "r", "rank_pattern", "use_rslora", "use_dora", "token_indices", "trainable_token_indices",
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    # The tensors tell what was trained, the modules which way their matrices lie.
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias", "fan_in_fan_out",
    "ensure_weight_tying", "lora_dropout", "megatron_core", "qalora_group_size",
    "init_weights", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}
_KEEPS_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base as it is; with others PEFT takes out of it what it puts into A and B."""


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter, checked as far as it can be without its base."""

    config: Mapping[str, Any]
    weights: Checkpoint
    parts: Mapping[str, Mapping[str, str]]
    """For each parameter it changes, as its authors' model calls it, the tensor of each part of the change."""

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Reads the config and the names of the tensors.

        Raises:
            UnsupportedModel: a kind of adapter that does not come down to other values of the base's parameters.
            CorruptCheckpoint, ModelNotFound: the files are damaged, incomplete or missing.
        """
        config = _read_config(folder)
        if not (folder / ADAPTER_WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
            raise UnsupportedModel(f"{folder} has no {ADAPTER_WEIGHTS}, only pickled weights",
                                   hint="load it with PEFT and save it again: that writes safetensors")
        file = SafetensorsFile.open(folder / ADAPTER_WEIGHTS)
        return cls(config, Checkpoint(folder, (file,), None, file.tensors), _parts(folder, file.tensors))

    @property
    def base(self) -> str:
        """The model it was trained on, as it says itself."""
        return str(self.config.get("base_model_name_or_path") or "a base that it does not name")

    def moves_rows(self, target: str) -> bool:
        """Whether it replaces single rows of the parameter."""
        return "rows" in self.parts[target]

    def values(self, target: str, before: Tensor, is_conv1d: bool) -> Tensor:
        """The parameter as the adapter makes it, computed in float32 and not yet rounded to what the base stores.

        Args:
            target: its name in `parts`.
            before: the base's values.
            is_conv1d: whether it belongs to a module that stores its matrix transposed, as GPT-2's do.

        Raises:
            ShapeMismatch: the adapter was made for another base.
        """
        parts = self.parts[target]
        if "frozen copy" in parts:
            self._require_base(target, before)
        if "whole" in parts:
            return self.weights.read(parts["whole"])
        if "rows" in parts:
            return self._with_rows(target, before)
        return self._with_lora(target, before, is_conv1d) if parts.keys() - {"frozen copy"} else before

    def _with_lora(self, target: str, before: Tensor, is_conv1d: bool) -> Tensor:
        """m ⊙ (W + s·BA), without DoRA's m just W + s·BA."""
        parts = {part: self.weights.read(name).float() for part, name in self.parts[target].items() if part != "frozen copy"}
        # PEFT has the matrices of an embedding with the vocabulary last.
        is_transposed = is_conv1d or "embedding A" in parts
        A, B = (parts.get(part, parts.get(f"embedding {part}")) for part in ("A", "B"))
        weight = before.float().T if is_transposed and before.ndim == 2 else before.float()
        magnitude = parts.get("magnitude")
        if not (A.ndim == B.ndim == 2 and weight.shape == (len(B), A.shape[1]) and B.shape[1] == len(A)
                and (magnitude is None or magnitude.numel() == len(B))):
            raise ShapeMismatch(f"{target} of the base is {tuple(weight.shape)}, the adapter changes it by "
                                f"{tuple(B.shape)} times {tuple(A.shape)}", hint=f"the adapter was made for {self.base}")
        moved = torch.addmm(weight, B, A, alpha=self._scale(target, len(A)))
        if magnitude is not None:
            moved *= (magnitude.flatten() / moved.norm(dim=1)).unsqueeze(1)
        return moved.T if is_transposed else moved

    def _scale(self, target: str, rank: int) -> float:
        module = target.removesuffix(".weight")
        try:
            patterns = (self.config.get("alpha_pattern") or {}).items()
            alpha = next((alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", module)),
                         self.config.get("lora_alpha"))
            return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        except (re.error, AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CorruptCheckpoint(f"{ADAPTER_CONFIG} in {self.weights.folder} gives no scale for {target}: {error}",
                                    hint=_AGAIN) from error

    def _with_rows(self, target: str, before: Float[Tensor, "vocab d_model"]) -> Float[Tensor, "vocab d_model"]:
        ids, rows = self._token_ids(target), self.weights.read(self.parts[target]["rows"])
        if rows.shape != (len(ids), *before.shape[1:]) or not set(ids) <= set(range(len(before))):
            raise ShapeMismatch(f"{target} of the base is {tuple(before.shape)}, the adapter replaces {len(ids)} rows, the "
                                f"highest {max(ids, default=-1)}, by {tuple(rows.shape)}",
                                hint=f"the adapter was made for {self.base}")
        after = before.clone()
        after[list(ids)] = rows.to(before.dtype)
        return after

    def _token_ids(self, target: str) -> Sequence[int]:
        ids = self.config.get("token_indices") or self.config.get("trainable_token_indices")
        if isinstance(ids, dict):
            module = target.removesuffix(".weight")
            ids = next((ids for name, ids in ids.items() if f".{module}".endswith(f".{name}")), None)
        if not isinstance(ids, list) or not all(type(token) is int for token in ids) or len(set(ids)) != len(ids):
            raise CorruptCheckpoint(f"{ADAPTER_CONFIG} in {self.weights.folder} does not say which rows of {target} it "
                                    "replaces", hint=_AGAIN)
        return ids

    def _require_base(self, target: str, before: Tensor) -> None:
        copy = self.weights.read(self.parts[target]["frozen copy"])
        # Equal in the coarser of the two dtypes: PEFT often keeps its copy in float32.
        is_same = copy.shape == before.shape and (torch.equal(copy.to(before.dtype), before)
                                                  or torch.equal(before.to(copy.dtype), copy))
        if not is_same:
            raise ShapeMismatch(f"the copy of {target} in {self.weights.folder}, {tuple(copy.shape)}, is not that of the base, "
                                f"{tuple(before.shape)}", hint=f"the adapter was made for {self.base}")


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        kind = config["peft_type"]
    except FileNotFoundError as error:
        raise ModelNotFound(f"there is no file {path}", hint="give the folder that holds the adapter") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptCheckpoint(f"{path} is not the config of an adapter: {error!r}", hint=_AGAIN) from error
    if kind not in ("LORA", "TRAINABLE_TOKENS"):
        raise UnsupportedModel(f"{folder} is an adapter of the type {kind}", hint=_MERGE)
    start = config.get("init_lora_weights")
    foreign = [f"{key}={value!r}" for key, value in config.items() if value and key not in _UNDERSTOOD]
    if start not in _KEEPS_THE_BASE:
        foreign.append(f"init_lora_weights={start!r}")
    if foreign:
        raise UnsupportedModel(f"{folder} is an adapter with {', '.join(foreign)}, which ember-hub does not know", hint=_MERGE)
    return config


def _parts(folder: Path, names: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    parts: dict[str, dict[str, str]] = {}
    for name in names:
        bare = name.removeprefix("base_model.model.")
        suffix = next((suffix for suffix in _PARTS if bare.endswith(f".{suffix}")), None)
        if suffix is not None:
            parts.setdefault(bare.removesuffix(suffix) + "weight", {})[_PARTS[suffix]] = name
        elif ".lora_" in bare:
            raise UnsupportedModel(f"{folder} is an adapter with the tensor {bare}, which ember-hub does not know", hint=_MERGE)
        else:
            parts.setdefault(bare.replace(".base_layer.", "."), {})["whole"] = name
    for target, found in parts.items():
        if found.keys() - {"frozen copy"} not in _FORMS:
            raise CorruptCheckpoint(f"{folder} holds of its change of {target} only: {', '.join(found)}", hint=_AGAIN)
    return parts
