"""Refuse early what cannot fit: disk for what will be written, memory for the model under attack."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ember_hub.errors import DiskError, NotEnoughMemory
from ember_hub.evaluation.attacks.relearning import Training
from ember_hub.evaluation.base import Instrument
from ember_hub.source.anatomy import empty_model, read_anatomy
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.load import placement, resolve_dtype
from ember_hub.source.memory import available_memory, model_bytes
from ember_hub.source.spread import require_fit
from ember_hub.stages.workshop import Workshop

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BESIDES = 300_000_000
"""Disk for edits, reports and figures, and memory for activations, in bytes."""


def require_room(shop: Workshop) -> None:
    """Compare what the run needs with what there is, unless it is finished.

    Where rows alone are read, their cache asks for its own room, and no model needs memory.

    Raises:
        DiskError: the output folder's disk is too full.
        NotEnoughMemory: the base and its copy under attack do not fit.
    """
    if shop.run.is_done("out"):
        return
    _require_disk(shop)
    if shop.settings.is_measured:
        _require_memory(shop)


def _require_disk(shop: Workshop) -> None:
    needed = BESIDES
    if shop.settings.publish.form != "patch":
        # A tied base may gain a head; the embedding is never more than the checkpoint.
        needed += 2 * sum(info.size for info in Checkpoint.open(shop.base.folder).tensors.values())
    free = shutil.disk_usage(shop.run.folder).free
    if needed > free:
        raise DiskError(f"the run may write {needed / 1e9:.1f} GB, {shop.run.folder} has {free / 1e9:.1f} GB free",
                        hint="make room, choose another disk with --output, or write the patch alone with --as patch")


def _require_memory(shop: Workshop) -> None:
    settings = shop.settings
    plan = empty_model(shop.base.folder, settings.trust_remote_code)
    kind = resolve_dtype(settings.dtype, plan)
    if not settings.loading.is_plain:
        _require_spread(shop, plan, kind)
        return
    size = model_bytes(plan, kind)
    needed, free = memory_needed(plan, kind, shop.instruments), _free(placement(settings.device, size))
    if needed > free:
        attacks = _attacks(size, kind, shop.instruments)
        small = [f"--skip {name}" for name, extra in attacks.items() if size + extra + BESIDES > free]
        raise NotEnoughMemory(f"base and copy under attack take {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free",
                              hint=f"leave out what does not fit ({' '.join(small) or 'nothing fits'}), or take a larger machine")


def memory_needed(plan: PreTrainedModel, kind: torch.dtype, instruments: Sequence[Instrument]) -> int:
    """Bytes that the base takes together with the most expensive of its copies under attack."""
    size = model_bytes(plan, kind)
    return size + max(_attacks(size, kind, instruments).values(), default=0) + BESIDES


def _attacks(size: int, kind: torch.dtype, instruments: Sequence[Instrument]) -> dict[str, int]:
    return {i.name: i.recipe.bytes(size // kind.itemsize, kind) for i in instruments if isinstance(i, Training)}


def _require_spread(shop: Workshop, plan: PreTrainedModel, kind: torch.dtype) -> None:
    """The same for a model that is quantized or laid out over several devices; adapters under attack come on top."""
    needed = require_fit(plan, kind, read_anatomy(plan).embedding, shop.spread)
    if shop.settings.loading.device_map:
        return
    free = _free(placement(shop.settings.device, int(needed)))
    if needed + BESIDES > free:
        raise NotEnoughMemory(f"the weights take {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
                              hint="share them out with --device-map auto, or hold them in 4 bits with --quantization 4bit")


def _free(place: str) -> int:
    """Bytes free where the loader will put the model; "auto" is all GPUs together."""
    import torch

    if place == "auto":
        return sum(available_memory(f"cuda:{i}") for i in range(torch.cuda.device_count()))
    return available_memory(place)
