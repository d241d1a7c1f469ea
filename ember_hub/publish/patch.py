"""The patch: the embedding part of an edit as an adapter of a few megabytes that plain transformers loads.

Written by hand, with nothing but JSON and safetensors. Rows are replacements, not differences, so that loading is
exact. Source: the on-disk format of PEFT's trainable tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ember_hub.edits.edit import Edit, Replaced, ReplacedRows
from ember_hub.errors import EditError, EmptyEdit
from ember_hub.publish.export import as_stored, bytes_sha256, replacing
from ember_hub.source.anatomy import Anatomy
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.naming import says_tied, tensor_name, tensor_names

if TYPE_CHECKING:
    from ember_hub.source.resolve import Base

PATCH_FILE = "ember_patch.json"
UNDO_FILE = "undo.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_TOKENIZER_FILE = re.compile(r"(?:tokenizer.*|special_tokens_map|added_tokens|vocab|chat_template)\.(?:json|jinja|txt)"
                             r"|merges\.txt|.*\.model|.*\.tiktoken")


@dataclass(frozen=True)
class _Part:
    """The rows of one embedding that a patch replaces."""

    checkpoint: Checkpoint
    tensor: str
    new: ReplacedRows
    """Sorted by id, in the checkpoint's dtype."""
    original: Float[Tensor, "n d_model"]

    @property
    def ids(self) -> list[int]:
        return self.new.token_ids.tolist()


def make_patch(base: Base, anatomy: Anatomy, edit: Edit, out: Path, left_out: Sequence[str] = ()) -> None:
    """Write the embedding part of the edit as an adapter folder, which appears only when it is whole.

    It names the base by its repository, a base without one by its folder. Rows are those that `export_model` writes;
    they are stored unscaled, as in the base. On a tied base only the input side changes, as in the full model.

    Args:
        out: replaced if it holds an earlier patch.
        left_out: names of methods whose changes the patch does not carry, to be told to whoever loads it.

    Raises:
        EmptyEdit: the edit does not touch the embedding.
        EditError: it replaces the embedding as a whole.
        DiskError: `out` holds something else, or cannot be written.
    """
    part = _embedding_part(base, anatomy, edit)
    with replacing(out, base.folder, PATCH_FILE) as folder:
        folder.mkdir(parents=True)
        # PEFT believes the config; where a checkpoint holds a head of its own in spite of it, the guard is right too.
        is_tied = anatomy.head is not None and (anatomy.is_tied or says_tied(base.folder))
        config, tensors = _tied(part, anatomy) if is_tied else _untied(part, anatomy)
        about = {"base_model_name_or_path": base.repo_id or str(base.folder.resolve()), "revision": None,
                 "task_type": "CAUSAL_LM", "inference_mode": True}
        _write_json(folder / ADAPTER_CONFIG, about | config)
        save_file({f"base_model.model.{name}": rows.contiguous() for name, rows in tensors.items()},
                  folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        save_file({"token_ids": part.new.token_ids, "rows": part.original}, folder / UNDO_FILE, metadata={"format": "pt"})
        left = {"methods": list(left_out), "parameters": sorted(set(edit.changes) - {anatomy.embedding})}
        _write_json(folder / PATCH_FILE, _description(base, anatomy, part) | {"not_carried": left})
        _copy_companions(base, folder)


def embedding_edit(anatomy: Anatomy, edit: Edit) -> Edit:
    """The part of an edit that a patch carries.

    Raises:
        EmptyEdit: the edit does not touch the embedding.
    """
    if anatomy.embedding not in edit.changes:
        raise EmptyEdit("the edit does not touch the embedding, and a patch carries nothing else",
                        hint="publish the full model: --as full")
    return Edit({anatomy.embedding: edit.changes[anatomy.embedding]}, edit.provenance)


def _embedding_part(base: Base, anatomy: Anatomy, edit: Edit) -> _Part:
    change = as_stored(base.folder, embedding_edit(anatomy, edit)).changes[anatomy.embedding]
    if isinstance(change, Replaced):
        raise EditError("the edit replaces the embedding as a whole, which is no patch of a few rows",
                        hint="publish the full model: --as full")
    assert isinstance(change, ReplacedRows), "as_stored leaves no other kind"
    checkpoint = Checkpoint.open(base.folder)
    tensor = tensor_name(checkpoint, anatomy.embedding)
    return _Part(checkpoint, tensor, change, checkpoint.read_rows(tensor, change.token_ids))


def _untied(part: _Part, anatomy: Anatomy) -> tuple[dict[str, object], dict[str, Tensor]]:
    module = anatomy.embedding.removesuffix(".weight")
    config = {"peft_type": "TRAINABLE_TOKENS", "init_weights": True, "target_modules": module, "token_indices": part.ids}
    return config, {f"{module}.trainable_tokens_delta": part.new.values}


def _tied(part: _Part, anatomy: Anatomy) -> tuple[dict[str, object], dict[str, Tensor]]:
    """A LoRA without targets: with different ids for embedding and head, PEFT treats tied weights as separate."""
    assert anatomy.head is not None, "a tied model has a head"
    module, head = anatomy.embedding.removesuffix(".weight"), anatomy.head.removesuffix(".weight")
    guard = _guard(part.ids, anatomy.vocab)
    held = next(iter(tensor_names(part.checkpoint, anatomy.head)), part.tensor)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "dummy-target-modules",
              "trainable_token_indices": {module: part.ids, head: [guard]}, "ensure_weight_tying": False}
    suffix = "token_adapter.trainable_tokens_delta"
    return config, {f"{module}.{suffix}": part.new.values,
                    f"{head}.{suffix}": part.checkpoint.read_rows(held, [guard])}


def _guard(ids: Sequence[int], vocab: int) -> int:
    """The head's row that stands for "unchanged": not an edited id, and rarely the same in two patches.

    PEFT refuses to stack adapters that name the same row. Below the highest edited id, so that it also exists in a
    base whose unused rows at the end were cut off.
    """
    free = sorted(set(range(ids[-1])) - set(ids)) or [(ids[-1] + 1) % vocab]
    return free[int.from_bytes(hashlib.sha256(repr(ids).encode()).digest()[:8]) % len(free)]


def _description(base: Base, anatomy: Anatomy, part: _Part) -> dict[str, object]:
    return {
        "schema": 1,
        "base": {"repo": base.repo_id, "commit": base.commit, "source": base.source_kind},
        "parameter": anatomy.embedding, "tensor": part.tensor, "is_tied": anatomy.is_tied,
        "d_model": anatomy.d_model, "vocab": anatomy.vocab, "dtype": str(part.original.dtype).removeprefix("torch."),
        "embed_scale": anatomy.embed_scale,
        "rows_are": "stored as in the base's checkpoint; the model multiplies them by embed_scale itself",
        "token_ids": part.ids,
        "original_rows_sha256": bytes_sha256(part.original), "new_rows_sha256": bytes_sha256(part.new.values),
    }


def _copy_companions(base: Base, folder: Path) -> None:
    """Tokenizer, chat templates and the base's licence files; links become regular files."""
    for path in sorted(base.folder.iterdir()):
        if path.is_file() and (_TOKENIZER_FILE.fullmatch(path.name) or path.name in base.licence.files):
            shutil.copyfile(path, folder / path.name)
    templates = base.folder / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name, copy_function=shutil.copyfile)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
