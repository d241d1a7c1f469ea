"""A patch as PEFT reads it: the config and the tensors of both formats.

`tokens` holds the new rows themselves (the reference: loads bit for bit), `lora-embed` the change as a LoRA of the
embedding (no copy of the table at each step, and understood by more servers).
Source: the on-disk format of PEFT's trainable tokens and of its LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ember_hub.patches.patch import Factors, Patch
from ember_hub.patches.storage import RawTensor

_PREFIX = "base_model.model."
_ROWS = "token_adapter.trainable_tokens_delta"


def config(patch: Patch) -> dict[str, Any]:
    """What adapter_config.json says."""
    own = _lora_config(patch) if patch.format == "lora-embed" else _tokens_config(patch)
    return {"base_model_name_or_path": patch.base.name, "revision": None, "task_type": "CAUSAL_LM", "inference_mode": True} | own


def tensors(patch: Patch) -> dict[str, RawTensor]:
    """What adapter_model.safetensors holds."""
    return _lora_tensors(patch) if patch.format == "lora-embed" else _tokens_tensors(patch)


def guard_id(content: Mapping[str, Any], head: str | None) -> int | None:
    """The token whose row guards the head, as an adapter_config.json says; None where it names none."""
    named = content.get("trainable_token_indices")
    ids = named.get((head or "").removesuffix(".weight")) if isinstance(named, dict) else None
    return ids[0] if isinstance(ids, list) and len(ids) == 1 and type(ids[0]) is int else None


def head_rows(patch_head: str) -> str:
    """Name of the tensor with the guard's row."""
    return f"{_PREFIX}{patch_head.removesuffix('.weight')}.{_ROWS}"


def new_rows(module: str, *, is_guarded: bool) -> str:
    """Name of the tensor with the new rows."""
    return f"{_PREFIX}{module}.{_ROWS if is_guarded else 'trainable_tokens_delta'}"


def lora_names(module: str) -> tuple[str, str]:
    """Names of A (rank, vocab) and B (d_model, rank)."""
    return f"{_PREFIX}{module}.lora_embedding_A", f"{_PREFIX}{module}.lora_embedding_B"


def scattered(patch: Patch, factors: Factors) -> np.ndarray:
    """The activations as a LoRA of the whole vocabulary has them: float32 (rank, vocab), zero for all other tokens."""
    whole = np.zeros((factors.rank, patch.table.vocab), np.float32)
    whole[:, patch.token_ids] = factors.activations.T
    return whole


def _tokens_config(patch: Patch) -> dict[str, Any]:
    ids, module = patch.token_ids.tolist(), patch.table.module
    if patch.guard is None:
        return {"peft_type": "TRAINABLE_TOKENS", "init_weights": True, "target_modules": module, "token_indices": ids}
    assert patch.table.head is not None, "a guard is a row of the head"
    # A LoRA without targets: with different ids for embedding and head, PEFT treats tied weights as separate.
    return {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "dummy-target-modules",
            "trainable_token_indices": {module: ids, patch.table.head.removesuffix(".weight"): [patch.guard.token_id]},
            "ensure_weight_tying": False}


def _tokens_tensors(patch: Patch) -> dict[str, RawTensor]:
    table, guard = patch.table, patch.guard
    rows = RawTensor(table.dtype, (len(patch), table.d_model), patch.rows)
    named = {new_rows(table.module, is_guarded=guard is not None): rows}
    if guard is not None:
        assert table.head is not None, "a guard is a row of the head"
        named[head_rows(table.head)] = RawTensor(table.dtype, (1, table.d_model), guard.row)
    return named


def _lora_config(patch: Patch) -> dict[str, Any]:
    assert patch.factors is not None, "lora-embed is made of factors"
    rank = patch.factors.rank
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [patch.table.module], "lora_dropout": 0.0,
            "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False}


def _lora_tensors(patch: Patch) -> dict[str, RawTensor]:
    assert patch.factors is not None, "lora-embed is made of factors"
    (a, b), table = lora_names(patch.table.module), patch.table
    rank = patch.factors.rank
    return {a: RawTensor("F32", (rank, table.vocab), scattered(patch, patch.factors)),
            b: RawTensor("F32", (table.d_model, rank), np.ascontiguousarray(patch.factors.directions))}
