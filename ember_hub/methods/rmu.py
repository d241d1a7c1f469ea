"""RMU: representation misdirection for unlearning.

At one layer, hidden states of concept text are steered towards a fixed random vector, those of neutral text are held
where they were:

    mean ‖h(x_f) − c·u‖² / N²  +  α · mean ‖h(x_r) − h₀(x_r)‖² / max(‖h₀‖, N)²  +  β · the same for anchors

Anchors are the last words of lettered questions on the concept, where the model is asked for a letter: held where they
were, they keep it able to answer at all, while the concept's own words are steered away. They are our addition.

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
from ember_hub.concepts.prompts import REQUEST, chat, has_chat, letter_prompt, statement
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.methods.base import Method, Space
from ember_hub.methods.blocks import Passage, passage, through
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel


_TOKENS_OF_SENTENCE = 35
_SCALE = 1024.0

Batches = list[list[tuple[str, str]]]
"""Texts in batches, each with the beginning that shall not count (empty: all of it counts)."""


@dataclass
class Material:
    """What every setting of a search trains on; passages are cut once for each layer and kept."""

    forget: Batches
    retain: Batches
    anchors: Batches
    """Lettered questions on the concept; what counts comes after the options."""
    passages: dict[int, tuple[list[Passage], ...]] = field(default_factory=dict)


class Rmu(Method):
    name: ClassVar[str] = "rmu"
    title: ClassVar[str] = "RMU (representation misdirection)"
    reference: ClassVar[str] = "arXiv 2403.03218"

    depth: float = Field(0.25, gt=0, lt=1, description="Steered layer, as a fraction of the model's depth.")
    steering: float = Field(2.0, gt=0, description="Length of the steering vector, in median hidden-state norms.")
    retain_weight: float = Field(20.0, ge=0, description="Weight of holding neutral text where it was (alpha).")
    anchor_weight: float = Field(100.0, ge=0, description="Weight of holding the request for a letter where it was (beta).")
    learning_rate: float = Field(9e-4, gt=0, description="AdamW learning rate.")
    steps: int = Field(120, ge=1, description="Training steps.")
    batch_size: int = Field(8, ge=1, description="Texts in a batch, of each kind.")
    blocks: int = Field(3, ge=1, description="Trained blocks, counted down from the steered layer.")

    @classmethod
    def search_space(cls) -> Space:
        return {"steering": (1.0, 4.0), "learning_rate": (3e-4, 1.2e-3), "anchor_weight": (50.0, 250.0)}

    def trained_blocks(self, n_layers: int) -> tuple[int, ...]:
        last = min(max(self.blocks - 1, round(self.depth * n_layers)), n_layers - 1)
        return tuple(range(max(0, last - self.blocks + 1), last + 1))

    def trained_tokens(self, n_layers: int) -> float:
        # Two kinds of sentences, and lettered questions, which are as long as three sentences.
        batch = 3 * self.batch_size * _TOKENS_OF_SENTENCE
        return self.steps * batch * len(self.trained_blocks(n_layers)) / n_layers

    def prepare(self, loaded: LoadedModel, pack: ConceptPack, seed: int, progress: Progress) -> Material:
        shuffle = random.Random(seed).shuffle
        forget = [*pack.sentences, *map(statement, pack.asked("questions", "tune"))]
        kept = [*pack.asked("near_domain", "tune"), *pack.asked("general", "tune")]
        retain = [*pack.neutral_part("fit"), *map(statement, kept)]
        anchors = [_anchor(question, loaded) for question in pack.asked("questions", "tune")]
        for texts in (forget, retain, anchors):
            shuffle(texts)
        whole = ([(text, "") for text in texts] for texts in (forget, retain))
        # A lettered question is as long as three sentences.
        sizes = (self.batch_size, self.batch_size, max(1, self.batch_size // 3))
        return Material(*(_batches(texts, size) for texts, size in zip((*whole, anchors), sizes, strict=True)))

    def fit(self, loaded: LoadedModel, prepared: Material, seed: int, progress: Progress) -> Edit:
        trained = self.trained_blocks(loaded.anatomy.n_layers)
        first, last = trained[0], trained[-1]
        passages = self._passages(loaded, prepared, first, last, progress)
        masters = self._train(loaded, _writers(loaded, first, last), passages, seed, progress)
        return Edit({name: Replaced(master.detach().to(loaded.dtype).cpu()) for name, master in masters.items()},
                    {"method": self.name, "layers": list(trained), **self.model_dump()})

    def _passages(self, loaded: LoadedModel, material: Material, first: int, last: int, progress: Progress
                  ) -> tuple[list[Passage], ...]:
        if last not in material.passages:
            kinds = (material.forget, material.retain, material.anchors)
            with progress.steps("hidden states", sum(map(len, kinds))) as advance:
                cut: tuple[list[Passage], ...] = ([], [], [])
                for passages, batches in zip(cut, kinds, strict=True):
                    for batch in batches:
                        texts, skipped = zip(*batch, strict=True)
                        passages.append(passage(loaded, texts, first, last, skipped if any(skipped) else ()))
                        advance(1)
            material.passages[last] = cut
        return material.passages[last]

    def _train(self, loaded: LoadedModel, writers: dict[str, tuple[int, str]], passages: tuple[list[Passage], ...],
               seed: int, progress: Progress) -> dict[str, Tensor]:
        forget = passages[0]
        blocks = [loaded.model.get_submodule(f"{loaded.anatomy.blocks}.{i}") for i, _ in writers.values()]
        # Masters are float32: in bfloat16 most updates at these rates round to nothing.
        masters = {name: loaded.parameter(name).float().clone().requires_grad_() for name in writers}
        own = [{inner: masters[name]} for name, (_, inner) in writers.items()]
        norm = torch.cat([_norms(p) for p in forget]).median()
        target = self.steering * norm * _direction(forget[0].leaving, seed)
        optimizer = torch.optim.AdamW(masters.values(), lr=self.learning_rate, weight_decay=0.0, fused=True)
        mixed = loaded.dtype != torch.float32
        # AdamW does not mind the scale; float16 has no room for gradients as small as these.
        scale = _SCALE if loaded.dtype == torch.float16 else 1.0
        with progress.steps(f"training {self.name}", self.steps) as advance:
            for step in range(self.steps):
                now = [kind[step % len(kind)] for kind in passages if kind]
                with torch.autocast(loaded.device.type, dtype=loaded.dtype if mixed else torch.bfloat16, enabled=mixed):
                    moved, *held = (through(blocks, batch, own) for batch in now)
                weights = (self.retain_weight, self.anchor_weight)
                loss = _steered(moved, target, now[0], norm) + sum(
                    weight * _held(hidden, batch, norm) for weight, hidden, batch in zip(weights, held, now[1:], strict=False))
                optimizer.zero_grad()
                (scale * loss).backward()
                optimizer.step()
                advance(1)
        return masters


def _anchor(question: Question, loaded: LoadedModel) -> tuple[str, str]:
    prompt, _ = letter_prompt(question)
    text = chat(prompt, loaded.tokenizer) if has_chat(loaded.tokenizer) else prompt
    return text, text[: text.rindex(REQUEST)]


def _batches(texts: Sequence[tuple[str, str]], size: int) -> Batches:
    """Texts of similar length together, so that little is padded; short and long batches mixed."""
    groups = [sorted(texts[i:i + 8 * size], key=lambda t: len(t[0])) for i in range(0, len(texts), 8 * size)]
    batches = [group[i:i + size] for group in groups for i in range(0, len(group), size)]
    return sorted(batches, key=lambda batch: hashlib.sha256(batch[0][0].encode()).digest())


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
