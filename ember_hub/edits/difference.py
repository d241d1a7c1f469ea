"""The difference between a base and a model that others made from it, as an edit like our own.

Read from the files of both, a tensor at a time: memory holds what differs and little more, never two models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from ember_hub.edits.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter
from ember_hub.edits.edit import Change, Edit, Replaced, ReplacedRows
from ember_hub.errors import CorruptCheckpoint, EmptyEdit, ShapeMismatch, UnsupportedModel
from ember_hub.progress import Progress
from ember_hub.source.anatomy import Anatomy, empty_model, read_anatomy
from ember_hub.source.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from ember_hub.source.load import load_tokenizer, transformers_reports_to
from ember_hub.source.naming import tensor_names
from ember_hub.source.safetensors_file import TensorInfo, chunks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS_AT_ONCE = 8192
_MOST_ROWS = 0.25
"""Above this share of its rows a table is replaced as a whole."""
_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OTHER_BASE = "name the base that it was made from"
_OTHER_NAMES = "load both with transformers and save them again, so that both use its names"
# What a config says about files, training and generation; the rest is the architecture.
_BESIDE_THE_POINT = re.compile(
    r"_?(?:model_)?name_or_path|architectures|(?:torch_)?dtype|transformers_version|unsloth_\w+|auto_map|(?:id2label|label2id).*|"
    r"vocab_size|tie_word_embeddings|\w+_token_id|use_cache|return_dict|output_\w+|problem_type|chunk_size_feed_forward|"
    r"initializer_range|\w*(?:dropout|pdrop)|\w*aux_loss_coef|pretraining_tp")


def difference(base: Path, edited: Path, anatomy: Anatomy, progress: Progress) -> Edit:
    """What turns the base into the edited model.

    Args:
        base: folder of a checkpoint, the one of the anatomy.
        edited: folder of a checkpoint of the same architecture, or of a PEFT adapter.

    Returns:
        Changes to the loaded, untied model, in the dtype of the base's tensors: rows where at most a quarter of a
        vocabulary table differs, else whole parameters.

    Raises:
        EmptyEdit: nothing differs.
        UnsupportedModel: another architecture or tokenizer, quantized, or an adapter that is no change of parameters.
        ShapeMismatch: made for a base of another shape.
        CorruptCheckpoint, ModelNotFound: damaged or missing files, or values that are not numbers.
    """
    with transformers_reports_to(progress):
        plan = empty_model(base)
        checkpoint = Checkpoint.open(base)
        ours = _by_parameter(checkpoint, plan, anatomy)
        if _is_adapter(edited):
            about, pairs = {"kind": "adapter"}, _adapted(Adapter.open(edited), ours, plan, progress)
        else:
            theirs = _full_model(edited, checkpoint, ours, plan)
            about, pairs = {"kind": "checkpoint", **_notes(ours, theirs, anatomy)}, _compared(ours, theirs, progress)
        if not same_tokenizer(base, edited):
            raise UnsupportedModel(f"{edited} gives tokens other ids than {base}: the two read different texts",
                                   hint=_OTHER_BASE)
    tables = {anatomy.embedding, anatomy.head, *anatomy.other_tables}
    changes: dict[str, Change] = {}
    likeness = "byte for byte"
    for name, before, published in pairs:
        likeness = "in every value"
        after = _fitted(edited, name, before, published, name in tables)
        if change := _change(before, after, name in tables):
            changes[name] = change
        # Tables are large: let go of this pair before the next one is read.
        del before, published, after
    if not changes:
        raise EmptyEdit(f"{edited} is {likeness} {base}", hint="name the edited model, and the base that it was made from")
    edit = Edit(changes)
    return replace(edit, provenance={"source": "difference", "changed": len(changes), "rows": edit.rows(), **about})


def same_tokenizer(base: Path, edited: Path) -> bool:
    """Whether every token of the base has the same id in the edited model, which may know further ones.

    A folder without a tokenizer is used with the base's.
    """
    ours, theirs = base / "tokenizer.json", edited / "tokenizer.json"
    if not any(edited.glob("tokenizer*")) or (ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes()):
        return True
    ids = load_tokenizer(edited).get_vocab()
    return all(ids.get(token) == token_id for token, token_id in load_tokenizer(base).get_vocab().items())


def edited_token_ids(edit: Edit, anatomy: Anatomy) -> Int[Tensor, " n"]:
    """Ids of the rows of the input embedding that the edit changes: all, where it replaces the table as a whole."""
    change = edit.changes.get(anatomy.embedding)
    if change is None:
        return torch.empty(0, dtype=torch.long)
    return torch.arange(len(change.values)) if isinstance(change, Replaced) else change.token_ids


def _by_parameter(checkpoint: Checkpoint, plan: PreTrainedModel, anatomy: Anatomy) -> Checkpoint:
    """The checkpoint under the loaded model's names; the tensor of a tied head is the embedding's.

    Tensors that are no parameter by themselves, such as those that transformers fuses, are left out.
    """
    tensors = {}
    for name, _ in plan.named_parameters(remove_duplicate=False):
        found = tensor_names(checkpoint, name)
        if len(found) > 1:
            raise UnsupportedModel(f"{name} of the loaded model may be {' or '.join(found)} in {checkpoint.folder}",
                                   hint=_OTHER_NAMES)
        if found:
            tensors[name] = checkpoint.tensors[found[0]]
    if anatomy.is_tied and anatomy.head and anatomy.embedding in tensors:
        tensors.setdefault(anatomy.head, tensors[anatomy.embedding])
    return replace(checkpoint, tensors=tensors)


def _full_model(edited: Path, base: Checkpoint, ours: Checkpoint, plan: PreTrainedModel) -> Checkpoint:
    """The edited checkpoint under the loaded model's names, which are those that the base has."""
    checkpoint, their_plan = Checkpoint.open(edited), empty_model(edited)
    _require_same_architecture(plan, their_plan, edited)
    theirs = _by_parameter(checkpoint, plan, read_anatomy(their_plan))
    missing, extra = sorted(ours.tensors.keys() - theirs.tensors), sorted(theirs.tensors.keys() - ours.tensors)
    if missing:
        raise CorruptCheckpoint(f"{edited} lacks {len(missing)} tensors of {ours.folder}, the first is {missing[0]}",
                                hint="download it again, or " + _OTHER_BASE)
    if extra:
        raise UnsupportedModel(f"{edited} holds {extra[0]}, {ours.folder} does not", hint=_OTHER_NAMES)
    _require_same_rest(plan, _rest(base, ours), _rest(checkpoint, theirs))
    return theirs


def _require_same_architecture(plan: PreTrainedModel, their_plan: PreTrainedModel, edited: Path) -> None:
    ours, theirs = (dict(_facts(model.config.to_dict())) for model in (plan, their_plan))
    differing = [key for key, value in ours.items() if key in theirs and not _is_alike(value, theirs[key])]
    if differing:
        first = sorted(differing, key=lambda key: key != "model_type")[:3]
        told = ", ".join(f"{key} {theirs[key]!r} instead of {ours[key]!r}" for key in first)
        raise UnsupportedModel(f"the config of {edited} says {told}",
                               hint=f"{_OTHER_BASE}; an edit changes parameters, not what is computed with them")


def _facts(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a config says about the architecture, nested configs with dots."""
    for key, value in config.items():
        if _BESIDE_THE_POINT.fullmatch(str(key)):
            continue
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_alike(ours: object, theirs: object) -> bool:
    # A GGUF file keeps in float32 what config.json writes in decimals.
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return ours == theirs


def _require_same_rest(plan: PreTrainedModel, ours: Mapping[str, TensorInfo], theirs: Mapping[str, TensorInfo]) -> None:
    """Refuses a difference in tensors that are no parameter by themselves, save those that transformers never reads."""
    unread = [*(plan._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq"]
    for name in sorted(ours.keys() | theirs):
        if any(re.search(pattern, name) for pattern in unread):
            continue
        if not (name in ours and name in theirs and _same_bytes(ours[name], theirs[name])):
            raise UnsupportedModel(f"{name} differs, and it is no parameter of the loaded model by itself",
                                   hint="experts that are fused while loading, and added heads, cannot be verified as an edit")


def _rest(checkpoint: Checkpoint, by_parameter: Checkpoint) -> Mapping[str, TensorInfo]:
    used = {info.name for info in by_parameter.tensors.values()}
    return {name: info for name, info in checkpoint.tensors.items() if name not in used}


def _same_bytes(ours: TensorInfo, theirs: TensorInfo) -> bool:
    return (ours.code, ours.shape) == (theirs.code, theirs.shape) and all(
        left == right for left, right in zip(chunks(ours), chunks(theirs), strict=True))


def _notes(ours: Checkpoint, theirs: Checkpoint, anatomy: Anatomy) -> dict[str, object]:
    """What was put aside to make the two comparable."""
    kinds = sorted({f"{theirs.tensors[name].dtype} as {info.dtype}".replace("torch.", "")
                    for name, info in ours.tensors.items() if info.dtype != theirs.tensors[name].dtype})
    spare = theirs.tensors[anatomy.embedding].shape[0] - ours.tensors[anatomy.embedding].shape[0]
    return ({"dtypes": ", ".join(kinds)} if kinds else {}) | ({"rows_left_out": spare} if spare > 0 else {})


def _compared(ours: Checkpoint, theirs: Checkpoint, progress: Progress) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, base's and edited model's values of each parameter whose bytes differ."""
    with progress.steps("compare tensors", len(ours.tensors)) as done:
        for name, info in ours.tensors.items():
            if not _same_bytes(info, theirs.tensors[name]):
                yield name, ours.read(name), theirs.read(name)
            done(1)


def _adapted(adapter: Adapter, ours: Checkpoint, plan: PreTrainedModel, progress: Progress
             ) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, base's and adapted values of each parameter that the adapter names."""
    from transformers.pytorch_utils import Conv1D

    targets = _targets(adapter, ours, read_anatomy(plan))
    with progress.steps("compare tensors", len(targets)) as done:
        for name, target in targets.items():
            before = ours.read(name)
            module = plan.get_submodule(name.rpartition(".")[0])
            yield name, before, adapter.values(target, before, isinstance(module, Conv1D))
            # Held here, it would stay while the next one is read.
            del before
            done(1)


def _targets(adapter: Adapter, ours: Checkpoint, anatomy: Anatomy) -> dict[str, str]:
    """For each parameter that the adapter changes, the adapter's own name of it."""
    targets: dict[str, str] = {}
    for target in adapter.parts:
        found = tensor_names(ours, target)
        if len(found) != 1 or found[0] in targets:
            raise ShapeMismatch(f"{adapter.weights.folder} changes {target}, which {ours.folder} does not have",
                                hint=f"the adapter was made for {adapter.base}")
        targets[found[0]] = target
    embedding = targets.get(anatomy.embedding)
    # On a tied base PEFT lets the head follow the rows of the embedding, unless the head has rows of its own.
    if anatomy.is_tied and anatomy.head and embedding and adapter.moves_rows(embedding):
        targets.setdefault(anatomy.head, embedding)
    return targets


def _is_adapter(folder: Path) -> bool:
    is_adapter = any((folder / name).exists() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    if is_adapter and any((folder / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        raise UnsupportedModel(f"{folder} holds both a full model and an adapter", hint="give a folder with one of the two")
    return is_adapter


def _fitted(edited: Path, name: str, before: Tensor, published: Tensor, is_table: bool) -> Tensor:
    """The published values in shape and dtype of the base's.

    Raises:
        ShapeMismatch, UnsupportedModel, CorruptCheckpoint: they are of another shape, quantized, or not numbers.
    """
    if published.dtype not in _PLAIN:
        raise UnsupportedModel(f"{name} in {edited} is {published.dtype}: quantized", hint="give the model before quantization")
    # A padded vocabulary has further rows at its end, which no token of the base means.
    if is_table and published.shape[1:] == before.shape[1:]:
        published = published[:len(before)]
    if published.shape != before.shape:
        raise ShapeMismatch(f"{name} in {edited} is {tuple(published.shape)}, in the base {tuple(before.shape)}", hint=_OTHER_BASE)
    after = published.to(before.dtype).contiguous()
    if after.numel() and not torch.isfinite(torch.stack(torch.aminmax(after))).all():
        raise CorruptCheckpoint(f"{name} in {edited} holds values that are not numbers in {before.dtype}",
                                hint="download it again, or ask its authors")
    return after


def _change(before: Tensor, after: Tensor, is_table: bool) -> Change | None:
    if not is_table:
        return None if torch.equal(before, after) else Replaced(after)
    blocks = zip(before.split(_ROWS_AT_ONCE), after.split(_ROWS_AT_ONCE), strict=True)
    ids = torch.cat([(old != new).any(dim=1) for old, new in blocks]).nonzero()[:, 0]
    if len(ids) == 0:
        return None
    return ReplacedRows(ids, after[ids]) if len(ids) <= _MOST_ROWS * len(before) else Replaced(after)
