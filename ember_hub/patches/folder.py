"""A patch on disk: the adapter that PEFT loads, ember_patch.json that says what it is, and undo.safetensors.

Whatever is written twice is compared when it is read: a folder that contradicts itself is no patch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.errors import PatchInvalid
from ember_hub.patches import adapter
from ember_hub.patches.description import Description, Fields, describe, parse
from ember_hub.patches.patch import Factors, Guard, Patch, check, rows_of_factors
from ember_hub.patches.storage import RawTensor, read_json, read_tensors, require_new, write_json, write_tensors
from ember_hub.patches.undo import Undo, as_guard, table_rows, tensor, write_undo
from ember_hub.source.output_folder import appearing_folder

PATCH_FILE = "ember_patch.json"
UNDO_FILE = "undo.safetensors"
FACTORS_FILE = "factors.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FILES = (PATCH_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, UNDO_FILE, FACTORS_FILE)
"""All that a patch is; a folder may hold companions such as a tokenizer beside them."""

_COMPANION = re.compile(r"[^.].*\.(?:json|jinja|txt|model|tiktoken)|"
                        r"(?:.*[_-])?(?:licen[cs]e|notice|use_policy|copying)(?:[._-].*)?", re.IGNORECASE)
_AGAIN = "download the patch again, or make it again from its run"


def write(patch: Patch, folder: Path) -> None:
    """Write a patch into a folder that is there; the caller makes it appear when it is whole."""
    write_json(folder / ADAPTER_CONFIG, adapter.config(patch))
    write_tensors(folder / ADAPTER_WEIGHTS, adapter.tensors(patch), {"format": "pt"})
    write_json(folder / PATCH_FILE, describe(patch))
    if patch.originals is not None:
        write_undo(patch, folder / UNDO_FILE)
    if patch.factors is not None and patch.format == "tokens":
        factors = {"directions": patch.factors.directions, "activations": patch.factors.activations}
        write_tensors(folder / FACTORS_FILE, {name: RawTensor("F32", values.shape, np.ascontiguousarray(values, np.float32))
                                              for name, values in factors.items()}, {"format": "pt"})


def save(patch: Patch, out: Path, companions_of: Path) -> None:
    """Write a patch as a new folder, with the tokenizer and the licence files of another one; no card: it tells of that one.

    Raises:
        DiskError: `out` exists, or cannot be written.
    """
    require_new(out)
    companions = [path for path in sorted(companions_of.iterdir())
                  if path.is_file() and path.name not in FILES and _COMPANION.fullmatch(path.name)]
    with appearing_folder(out, _size(patch) + sum(path.stat().st_size for path in companions)) as folder:
        write(patch, folder)
        for path in companions:
            shutil.copyfile(path, folder / path.name)


def read(folder: Path) -> Patch:
    """See `Patch.open`."""
    content, said = read_json(folder / PATCH_FILE), read_json(folder / ADAPTER_CONFIG)
    about = parse(folder / PATCH_FILE, content, Fields(folder / ADAPTER_CONFIG, said).get("base_model_name_or_path", str))
    undo = _undo(folder / UNDO_FILE, about)
    weights, _ = read_tensors(folder / ADAPTER_WEIGHTS)
    factors: Factors | None
    if about.format == "lora-embed":
        rows, guard, factors = _from_factors(about, undo, weights, folder)
    else:
        guard = _guard(about, weights, adapter.guard_id(said, about.table.head), folder)
        name = adapter.new_rows(about.table.module, is_guarded=guard is not None)
        rows = table_rows(weights, name, about, folder / ADAPTER_WEIGHTS)
        factors = _kept_factors(about, folder / FACTORS_FILE)
    originals, config = (None, None) if undo is None else (undo.originals, undo.config)
    patch = check(Patch(about.base, about.table, about.token_ids, rows, originals, about.original_sha256, guard, factors,
                        about.not_carried, config, about.format))
    _require_same_config(said, adapter.config(patch), folder / ADAPTER_CONFIG)
    if patch.new_sha256 != about.new_sha256:
        raise PatchInvalid(f"the new rows in {folder} are not those that {PATCH_FILE} says: their hash differs", hint=_AGAIN)
    return patch


def _size(patch: Patch) -> int:
    """About how many bytes the files of a patch have, rather more."""
    rank = 0 if patch.factors is None else patch.factors.rank
    whole = patch.table.vocab if patch.format == "lora-embed" else len(patch)
    return 2 * patch.rows.nbytes + 4 * rank * (whole + patch.table.d_model) + 64 * len(patch) + 2**16


def _undo(path: Path, about: Description) -> Undo | None:
    if not path.exists():
        return None
    undo = Undo.open(path)
    theirs, ours = ((each.original_sha256, each.new_sha256, each.table, each.token_ids.tolist()) for each in (undo.about, about))
    if theirs != ours:
        raise PatchInvalid(f"{path} undoes another patch than the one beside it", hint=_AGAIN)
    return undo


def _guard(about: Description, weights: Mapping[str, RawTensor], token_id: int | None, folder: Path) -> Guard | None:
    if token_id is None or about.table.head is None:
        return None
    row = table_rows(weights, adapter.head_rows(about.table.head), about, folder / ADAPTER_WEIGHTS, count=1)
    return as_guard(about, token_id, row[0])


def _from_factors(about: Description, undo: Undo | None, weights: Mapping[str, RawTensor], folder: Path
                  ) -> tuple[np.ndarray, Guard | None, Factors]:
    """New rows, guard and factors of a patch that holds its change as a LoRA."""
    if undo is None:
        raise PatchInvalid(f"{folder} has no {UNDO_FILE}, without which a LoRA does not say what the new rows are", hint=_AGAIN)
    table, path = about.table, folder / ADAPTER_WEIGHTS
    a, b = adapter.lora_names(table.module)
    rank = weights[a].shape[0] if a in weights and weights[a].shape else 0
    whole = tensor(weights, a, RawTensor("F32", (rank, table.vocab), np.empty(0)), path).view(np.float32)
    activations = np.ascontiguousarray(whole[:, about.token_ids].T)
    if rank == 0 or np.count_nonzero(whole) != np.count_nonzero(activations):
        raise PatchInvalid(f"{path} changes other tokens than {PATCH_FILE} names", hint=_AGAIN)
    factors = _factors(weights, b, activations, about, path)
    return rows_of_factors(factors, undo.originals, table.dtype), undo.guard, factors


def _kept_factors(about: Description, path: Path) -> Factors | None:
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    found = tensors.get("activations")
    rank = found.shape[-1] if found is not None and len(found.shape) == 2 else 0
    like = RawTensor("F32", (len(about.token_ids), rank), np.empty(0))
    return _factors(tensors, "directions", tensor(tensors, "activations", like, path).view(np.float32), about, path)


def _factors(tensors: Mapping[str, RawTensor], name: str, activations: np.ndarray, about: Description, path: Path) -> Factors:
    like = RawTensor("F32", (about.table.d_model, activations.shape[1]), np.empty(0))
    directions = tensor(tensors, name, like, path).view(np.float32)
    if not (np.isfinite(directions).all() and np.isfinite(activations).all()):
        raise PatchInvalid(f"{path} holds values that are not numbers", hint=_AGAIN)
    return Factors(directions, activations)


def _require_same_config(said: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    for key, value in expected.items():
        # As JSON: there True is not 1, as it is in Python.
        if key not in said or json.dumps(said[key]) != json.dumps(value):
            raise PatchInvalid(f"{path} contradicts {PATCH_FILE} about {key}", hint=_AGAIN)
