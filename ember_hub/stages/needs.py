"""What each way to erase would take on this machine: bytes, memory and time, estimated without the model."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ember_hub.concepts.pack import ConceptPack
from ember_hub.errors import UnsupportedModel
from ember_hub.evaluation.base import Attack, Cost, Evaluation, Instrument
from ember_hub.evaluation.evaluations.questions import TOKENS_OF_SENTENCE
from ember_hub.evaluation.evidence import BASE, EDITED, RANDOM, STRANGER
from ember_hub.evaluation.examination import most_looked_at
from ember_hub.evaluation.presentation import tokens_read
from ember_hub.methods.base import Method
from ember_hub.settings import Settings
from ember_hub.source.anatomy import Anatomy
from ember_hub.source.checkpoint import INDEX_FILE, Checkpoint
from ember_hub.source.load import placement, resolve_dtype
from ember_hub.source.memory import available_memory, model_bytes, parameter_count
from ember_hub.source.naming import tensor_name
from ember_hub.source.resolve import Base
from ember_hub.source.weights import Weights
from ember_hub.stages.estimate import TRAINED, WRITTEN, prospect
from ember_hub.stages.room import BESIDES, memory_needed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FORMS: tuple[Literal["patch", "full", "both"], ...] = ("patch", "full", "both")
_MOMENTS = 16
"""Bytes by trained number: a float32 master, its gradient, and two moments."""
_EFFICIENCY = 0.7
"""What a forward pass reaches of the speed of one matrix product; measured with SmolLM2-135M on a CPU."""
# Small and many: on a busy machine some of them run undisturbed.
_SIDE, _TRIES = 512, 60


@dataclass(frozen=True)
class Need:
    """One way to erase. Bytes that were downloaded already are not counted; seconds leave the download out.

    memory: the peak, on the device that computes; seconds: none where it cannot be said.
    blocked: why it cannot be done here; none if it can.
    """

    form: Literal["patch", "full", "both"]
    methods: tuple[str, ...]
    is_measured: bool
    download: int
    disk: int
    memory: int
    seconds: float | None
    blocked: str | None


@dataclass(frozen=True)
class Machine:
    """What there is: free bytes of memory where the model would be, and of disk; speed in multiplications a second."""

    device: str
    memory: int
    disk: int
    speed: float


@dataclass(frozen=True)
class Spent:
    """What finding the rows took just now; the patch without a measurement takes no more."""

    seconds: float
    memory: int
    patch_bytes: int


@dataclass(frozen=True)
class Site:
    """What the estimates are made from."""

    settings: Settings
    base: Base
    pack: ConceptPack
    anatomy: Anatomy
    weights: Weights
    plan: PreTrainedModel
    instruments: tuple[Instrument, ...]
    methods: dict[str, type[Method]]
    is_quantized: bool

    @property
    def dtype(self) -> torch.dtype:
        return resolve_dtype(self.settings.dtype, self.plan)

    def weight_bytes(self) -> int:
        """Bytes of all weight files: by the files or the index, else by the number of parameters."""
        index = self.base.folder / INDEX_FILE
        if self.base.has_weights:
            return sum(file.size for file in Checkpoint.open(self.base.folder).files)
        if index.is_file():
            total = json.loads(index.read_text("utf-8")).get("metadata", {}).get("total_size")
            if isinstance(total, int | float):
                return int(total)
        return parameter_count(self.plan) * self.dtype.itemsize


def machine(site: Site) -> Machine:
    """This machine, with a look at how fast it multiplies."""
    place = placement(site.settings.device, model_bytes(site.plan, site.dtype))
    device = "cuda:0" if place == "auto" else place
    output = next(p for p in (site.settings.output.absolute(), *site.settings.output.absolute().parents) if p.exists())
    return Machine(place, available_memory(device), shutil.disk_usage(output).free, _speed(device, site.dtype))


def needs(site: Site, here: Machine, spent: Spent) -> Iterator[Need]:
    """The patch that is not measured, then every form with each method, verified by the battery of the settings."""
    blocked = "more memory than there is" if spent.memory > available_memory() else None
    yield Need("patch", (), False, 0, spent.patch_bytes + _kept(site), spent.memory, spent.seconds, blocked)
    for methods in ((), *((name,) for name in site.methods)):
        memory = max(spent.memory, memory_needed(site.plan, site.dtype, site.instruments),
                     *(_training(site, name) for name in methods))
        seconds = None if site.is_quantized else spent.seconds + _work(site, methods) / here.speed
        for form in FORMS:
            need = Need(form, methods, True, 0 if site.base.has_weights else site.weight_bytes(),
                        _disk(site, form, spent), memory, seconds, None)
            yield replace(need, blocked=_blocked(site, need, here))


def _blocked(site: Site, need: Need, here: Machine) -> str | None:
    if site.is_quantized:
        return "the checkpoint is quantized: only its embedding can be edited"
    try:
        for name in need.methods:
            site.anatomy.required_mlp_writers()
            for writer in _trained(site, name):
                tensor_name(site.weights, writer)
    except UnsupportedModel as error:
        return error.message
    if need.memory > here.memory:
        return "more memory than there is"
    return "more disk than there is" if need.disk > here.disk else None


def _disk(site: Site, form: str, spent: Spent) -> int:
    weights = site.weight_bytes()
    own = 0 if site.base.has_weights else weights
    head = site.anatomy.vocab * site.anatomy.d_model * site.dtype.itemsize if site.anatomy.is_tied else 0
    return own + (weights + head if form != "patch" else 0) + (spent.patch_bytes if form != "full" else 0) + _kept(site)


def _kept(site: Site) -> int:
    """What the run folder keeps beside the result: mostly the factorizations."""
    ember = site.settings.ember
    rank = ember.rank or (200 if site.anatomy.d_model >= 1024 else 100)
    return ember.seeds * rank * site.anatomy.d_model * 4 + BESIDES // 10


def _training(site: Site, name: str) -> int:
    """Memory of fitting a method: the weights, and what its optimizer keeps of the parameters that it trains."""
    trained = sum(site.plan.get_parameter(writer).numel() for writer in _trained(site, name))
    return model_bytes(site.plan, site.dtype) + trained * _MOMENTS + BESIDES


def _trained(site: Site, name: str) -> list[str]:
    """The matrices that a method trains."""
    method = site.methods[name](**site.settings.plugins.get(name, {}))
    blocks = set(method.trained_blocks(site.anatomy.n_layers))
    return [writer for i, writer in enumerate(site.anatomy.mlp_writers) if i in blocks]


def _work(site: Site, methods: Sequence[str]) -> float:
    """Multiplications of the search and the verification, if the base knew every answer."""
    search, fits = site.settings.search, 0.0
    asked = sum(most_looked_at(len(site.pack.asked(part, "tune"))) for part in ("questions", "near_domain", "general"))
    look = tokens_read(asked, "letter") + 2 * len(site.pack.neutral_part("tune")) * TOKENS_OF_SENTENCE
    looks = 1 + len(site.settings.ember.strengths) + search.trials * len(methods)
    for name in methods:
        method = site.methods[name](**site.settings.plugins.get(name, {}))
        # The search, the fit that is kept, and the two controls.
        fits += (search.trials + 3) * method.trained_tokens(site.anatomy.n_layers)
    states = (EDITED, RANDOM, *(("ember-only", "only") if methods else ()))
    work = Cost(read=looks * look, trained=fits)
    subjects = prospect(site.pack, site.settings.seed)
    for instrument in site.instruments:
        cost = instrument.cost(subjects[BASE])
        if isinstance(instrument, Evaluation):
            work += _times(cost, 1 + len(states))
        elif isinstance(instrument, Attack):
            work += _times(cost, len(states) + 1 - bool(methods)) + instrument.cost(subjects[STRANGER])
    return (work.read + TRAINED * work.trained + WRITTEN * work.written) * parameter_count(site.plan)


def _times(cost: Cost, count: int) -> Cost:
    return Cost(cost.read * count, cost.trained * count, cost.written * count)


def _speed(device: str, dtype: torch.dtype) -> float:
    """Multiplications a second of a model's forward pass, from products of small matrices."""
    import torch

    one, other = (torch.ones(_SIDE, _SIDE, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(_TRIES):
        start = time.perf_counter()
        float((one @ other)[0, 0])
        best = min(best, time.perf_counter() - start)
    return _EFFICIENCY * _SIDE**3 / best


def folder_bytes(folder: Path) -> int:
    """Bytes of the files of a folder, weights left out."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".safetensors")
