"""RMU: representation misdirection for unlearning.

At one layer, hidden states of concept text are steered towards a fixed random vector, those of neutral text are held
where they were:

    mean ‖h(x_f) − c·u‖² / N²  +  α · mean ‖h(x_r) − h₀(x_r)‖² / max(‖h₀‖, N)²

u is uniform in [0,1)^d, normalised; N is the median norm of hidden states at that layer, and c a multiple of it, so
that settings carry over between models. Only the matrices by which the MLPs of three blocks write into the residual
stream are trained, found by role. Source: Li et al. 2024 (arXiv 2403.03218).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.methods.base import Method, Space
from ember_hub.methods.blocks import Passage, passage, through
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel


@dataclass
class Material:
    """What every setting of a search trains on; passages are cut once for each layer and kept."""

    forget: list[list[str]]
    retain: list[list[str]]
    passages: dict[int, tuple[list[Passage], list[Passage]]] = field(default_factory=dict)


class Rmu(Method):
    name: ClassVar[str] = "rmu"
    title: ClassVar[str] = "RMU (representation misdirection)"
    reference: ClassVar[str] = "arXiv 2403.03218"

    depth: float = Field(0.25, gt=0, lt=1, description="Steered layer, as a fraction of the model's depth.")
    steering: float = Field(2.0, gt=0, description="Length of the steering vector, in median hidden-state norms.")
    retain_weight: float = Field(20.0, ge=0, description="Weight of holding neutral text where it was (alpha).")
    learning_rate: float = Field(6e-4, gt=0, description="AdamW learning rate.")
    steps: int = Field(80, ge=1, description="Training steps.")
    batch_size: int = Field(8, ge=1, description="Texts in a batch, of each kind.")
    blocks: int = Field(3, ge=1, description="Trained blocks, counted down from the steered layer.")

    @classmethod
    def search_space(cls) -> Space:
        return {"steering": (1.0, 6.0), "learning_rate": (2e-4, 1.5e-3), "depth": (0.2, 0.5)}

    def prepare(self, loaded: LoadedModel, pack: ConceptPack, seed: int, progress: Progress) -> Material:
        shuffle = random.Random(seed).shuffle
        forget = [*pack.sentences]
        kept = [*pack.asked("near_domain", "tune"), *pack.asked("general", "tune")]
        retain = [*pack.neutral_part("fit"), *map(statement, kept)]
        shuffle(forget)
        shuffle(retain)
        return Material(_batches(forget, self.batch_size), _batches(retain, self.batch_size))

    def fit(self, loaded: LoadedModel, prepared: Material, seed: int, progress: Progress) -> Edit:
        last = max(self.blocks - 1, round(self.depth * loaded.anatomy.n_layers))
        last = min(last, loaded.anatomy.n_layers - 1)
        first = max(0, last - self.blocks + 1)
        forget, retain = self._passages(loaded, prepared, first, last, progress)
        writers = _writers(loaded, first, last)
        masters = self._train(loaded, writers, (forget, retain), seed, progress)
        return Edit({name: Replaced(master.detach().to(loaded.dtype).cpu()) for name, master in masters.items()},
                    {"method": self.name, "layers": list(range(first, last + 1)), **self.model_dump()})

    def _passages(self, loaded: LoadedModel, material: Material, first: int, last: int, progress: Progress
                  ) -> tuple[list[Passage], list[Passage]]:
        if last not in material.passages:
            with progress.steps("hidden states", len(material.forget) + len(material.retain)) as advance:
                cut: tuple[list[Passage], list[Passage]] = ([], [])
                for passages, batches in zip(cut, (material.forget, material.retain), strict=True):
                    for batch in batches:
                        passages.append(passage(loaded, batch, first, last))
                        advance(1)
            material.passages[last] = cut
        return material.passages[last]

    def _train(self, loaded: LoadedModel, writers: dict[str, tuple[int, str]], passages: tuple[list[Passage], list[Passage]],
               seed: int, progress: Progress) -> dict[str, Tensor]:
        forget, retain = passages
        blocks = [loaded.model.get_submodule(f"{loaded.anatomy.blocks}.{i}") for i, _ in writers.values()]
        # Masters are float32: in bfloat16 most updates at these rates round to nothing.
        masters = {name: loaded.model.get_parameter(name).detach().float().clone().requires_grad_() for name in writers}
        own = [{inner: masters[name]} for name, (_, inner) in writers.items()]
        norm = torch.cat([_norms(p) for p in forget]).median()
        target = self.steering * norm * _direction(forget[0].leaving, seed)
        optimizer = torch.optim.AdamW(masters.values(), lr=self.learning_rate, weight_decay=0.0)
        mixed = loaded.dtype != torch.float32
        with progress.steps(f"training {self.name}", self.steps) as advance:
            for step in range(self.steps):
                f, r = forget[step % len(forget)], retain[step % len(retain)]
                with torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=mixed):
                    moved, held = through(blocks, f, own), through(blocks, r, own)
                loss = _steered(moved, target, f, norm) + self.retain_weight * _held(held, r, norm)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                advance(1)
        return masters


def statement(question: Question) -> str:
    """A question with its right answer, as text."""
    return f"Question: {question.question}\nAnswer: {question.answer}"


def _batches(texts: Sequence[str], size: int) -> list[list[str]]:
    """Texts of similar length together, so that little is padded, in the order the texts came."""
    groups = [sorted(texts[i:i + 8 * size], key=len) for i in range(0, len(texts), 8 * size)]
    batches = [group[i:i + size] for group in groups for i in range(0, len(group), size)]
    return sorted(batches, key=lambda batch: hash_of(batch[0]))


def hash_of(text: str) -> int:
    """A number that depends on the text alone, for orders that no seed and no process changes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _writers(loaded: LoadedModel, first: int, last: int) -> dict[str, tuple[int, str]]:
    """Parameter name of each trained matrix → (block index, name within the block)."""
    prefix, names = loaded.anatomy.blocks, loaded.anatomy.required_mlp_writers()
    writers = {}
    for index in range(first, last + 1):
        name = names[index]
        writers[name] = (index, name.removeprefix(f"{prefix}.{index}."))
    return writers


def _direction(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(like.shape[-1], generator=generator)
    return (u / u.norm()).to(like.device)


def _norms(batch: Passage) -> Tensor:
    return batch.leaving.float().norm(dim=-1)[_steerable(batch)]


def _steerable(batch: Passage) -> Tensor:
    """Every real position but the first: it is the attention sink of many models, with a norm of its own order."""
    counts = batch.counts.clone()
    counts[:, 0] = False
    return counts


def _steered(hidden: Tensor, target: Tensor, batch: Passage, norm: Tensor) -> Tensor:
    distance = (hidden.float() - target).square().sum(-1) / norm.square()
    return distance[_steerable(batch)].mean()


def _held(hidden: Tensor, batch: Passage, norm: Tensor) -> Tensor:
    before = batch.leaving.float()
    scale = before.norm(dim=-1).clamp_min(float(norm)).square()
    return ((hidden.float() - before).square().sum(-1) / scale)[batch.counts].mean()
