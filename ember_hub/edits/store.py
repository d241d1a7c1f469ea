"""Edits on disk: one safetensors file each, the kind of every change in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ember_hub.edits.edit import Change, Edit, LowRankRows, Replaced, ReplacedRows
from ember_hub.errors import EditError

FORMAT = "ember-hub edit 1"


def save(edit: Edit, path: Path) -> None:
    """Write the edit; the caller names a temporary file and renames it."""
    tensors, kinds = {}, {}
    for name, change in edit.changes.items():
        kinds[name] = {"kind": type(change).__name__}
        if isinstance(change, LowRankRows):
            kinds[name] |= {"strength": change.strength, "clip": change.clip}
            tensors |= {f"{name}|token_ids": change.token_ids, f"{name}|G": change.G, f"{name}|directions": change.directions}
        elif isinstance(change, ReplacedRows):
            tensors |= {f"{name}|token_ids": change.token_ids, f"{name}|values": change.values}
        else:
            tensors[f"{name}|values"] = change.values
    about = {"format": FORMAT, "changes": json.dumps(kinds), "provenance": json.dumps(dict(edit.provenance))}
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path, metadata=about)


def load(path: Path) -> Edit:
    """Read an edit.

    Raises:
        EditError: the file is missing, damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    except (SafetensorError, OSError) as error:
        raise EditError(f"{path} cannot be read as an edit: {error}", hint="delete it and run the command again") from error
    if about.get("format") != FORMAT:
        raise EditError(f"{path} is not an edit of this version ({about.get('format')!r})",
                        hint=f"this version reads {FORMAT!r}")
    kinds = json.loads(about["changes"])
    return Edit({name: _change(name, kind, tensors) for name, kind in kinds.items()}, json.loads(about["provenance"]))


def _change(name: str, about: dict, tensors: dict) -> Change:
    part = {key.rsplit("|", 1)[1]: tensor for key, tensor in tensors.items() if key.rsplit("|", 1)[0] == name}
    match about["kind"]:
        case "LowRankRows":
            return LowRankRows(part["token_ids"], part["G"], part["directions"], about["strength"], about["clip"])
        case "ReplacedRows":
            return ReplacedRows(part["token_ids"], part["values"])
    return Replaced(part["values"])
