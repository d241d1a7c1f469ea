"""What attacks on the inside share: hidden states of many questions after every block, and answers layer by layer.

The options of a question stand side by side after their common prompt and do not see one another. A model that does not follow such
a mask, or whose layers look back less far, gets one row for each option: slower, same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ember_hub.concepts.pack import Question
from ember_hub.errors import UnsupportedModel
from ember_hub.evaluation.base import CONCEPT
from ember_hub.evaluation.presentation import Posed
from ember_hub.evaluation.reading import Reading
from ember_hub.evaluation.score import wilson
from ember_hub.evaluation.token_tree import Text, fitting
from ember_hub.methods.blocks import hidden_state

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

TOKENS_PER_PASS = 768
"""Enough to keep the matrix units busy."""
Wanted = Callable[[Text], range]
"""The positions of a text whose hidden states are wanted."""


@dataclass(frozen=True)
class States:
    """The residual stream of a few texts, after every block and before the final norm."""

    values: Float[Tensor, "layer rows d_model"]
    texts: Sequence[int]
    """Which of all texts these are."""
    rows: Sequence[Sequence[int]]
    """For each of them, the row of every wanted position; options share the rows of their prompt."""


class _Reached(Exception):
    """Stops a forward pass once the last block has answered."""


@torch.inference_mode()
def hidden_states(loaded: LoadedModel, posed: Sequence[Posed], wanted: Wanted, advance: Callable[[int], None]) -> Iterator[States]:
    """Hidden states of the questions' texts, pass by pass; texts are counted through all questions."""
    groups, first = [], 0
    loaded = fitting(loaded, [text for p in posed for text in p.texts])
    for p in posed:
        numbered = list(enumerate(p.texts, first))
        groups += [numbered] if loaded.reads_trees else [[one] for one in numbered]
        first += len(numbered)
    rows = sorted((_Row.of(group) for group in groups), key=lambda row: -len(row.ids))
    while rows:
        count = max(1, TOKENS_PER_PASS // len(rows[0].ids))
        batch, rows = rows[:count], rows[count:]
        width = len(batch[0].ids)
        places = [[line * width + row.column(k, i) for i in wanted(text)]
                  for line, row in enumerate(batch) for k, (_, text) in enumerate(row.texts)]
        asked = sorted({place for own in places for place in own})
        order = {place: index for index, place in enumerate(asked)}
        yield States(_run(loaded, batch, torch.tensor(asked, device=loaded.device)),
                     [index for row in batch for index, _ in row.texts], [[order[place] for place in own] for own in places])
        advance(len(places))


@dataclass(frozen=True)
class _Row:
    """Texts with a common stem as one row: the stem, then what each text has after it."""

    texts: Sequence[tuple[int, Text]]
    stem: int
    offsets: Sequence[int]
    """Where each text goes on after the stem."""
    ids: Sequence[int]
    depths: Sequence[int]
    """Position of each token in its own text."""
    branches: Sequence[int]
    """Which text each token belongs to; 0 is the stem."""

    @classmethod
    def of(cls, texts: Sequence[tuple[int, Text]]) -> _Row:
        stem = min(text.start for _, text in texts)
        ids, depths, branches, offsets = list(texts[0][1].ids[:stem]), list(range(stem)), [0] * stem, []
        for branch, (_, text) in enumerate(texts, 1):
            offsets.append(len(ids))
            ids += text.ids[stem:]
            depths += range(stem, len(text.ids))
            branches += [branch] * (len(text.ids) - stem)
        return cls(texts, stem, offsets, ids, depths, branches)

    def column(self, text: int, position: int) -> int:
        """Where a position of one of the texts stands in the row."""
        return position if position < self.stem else self.offsets[text] + position - self.stem


def _run(loaded: LoadedModel, rows: Sequence[_Row], asked: Int[Tensor, " rows"]) -> Float[Tensor, "layer rows d_model"]:
    blocks = loaded.model.get_submodule(loaded.anatomy.blocks)
    found: list[Tensor] = []

    def keep(_: nn.Module, __: tuple, output: Any) -> None:
        hidden = hidden_state(output)
        if hidden.ndim != 3:
            raise UnsupportedModel(f"the blocks of {type(loaded.model).__name__} hand on more than one residual stream",
                                   hint="leave out the attacks that read hidden states: --skip logit-lens --skip linear-probe")
        found.append(hidden.flatten(0, 1)[asked.to(hidden.device)].to(loaded.device))
        if len(found) == len(blocks):
            raise _Reached

    with ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(block.register_forward_hook(keep))
        with suppress(_Reached):
            loaded.model(**_inputs(loaded, rows), use_cache=False)
    return torch.stack(found)


def _inputs(loaded: LoadedModel, rows: Sequence[_Row]) -> dict[str, Tensor]:
    width = max(len(row.ids) for row in rows)

    def padded(lists: Sequence[Sequence[int]], value: int) -> Int[Tensor, "batch seq"]:
        return torch.tensor([[*one, *[value] * (width - len(one))] for one in lists], device=loaded.device)

    ids, branches = padded([row.ids for row in rows], 0), padded([row.branches for row in rows], -1)
    if not loaded.reads_trees:
        return {"input_ids": ids, "attention_mask": (branches >= 0).long()}
    mask = torch.zeros((len(rows), 1, width, width), dtype=loaded.dtype, device=loaded.device)
    mask.masked_fill_(~_sees(branches)[:, None], torch.finfo(loaded.dtype).min)
    return {"input_ids": ids, "position_ids": padded([row.depths for row in rows], 0), "attention_mask": mask}


def _sees(branches: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq seq"]:
    """Every token sees the stem and its own text, up to itself."""
    earlier = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool, device=branches.device).tril()
    return earlier & ((branches[:, None] == 0) | (branches[:, None] == branches[..., None]))


@dataclass(frozen=True)
class Choices:
    """How often each question's right option won at each layer, and how surely: means over its presentations."""

    questions: Sequence[Question]
    accuracy: Float[Tensor, "question layer"]
    probability: Float[Tensor, "question layer"]

    @classmethod
    def of(cls, posed: Sequence[Posed], scores: Sequence[Float[Tensor, "layer option"]]) -> Choices:
        """From the score of every option; the highest wins."""
        seen: dict[str, list[Tensor]] = {}
        for p, own in zip(posed, scores, strict=True):
            won = torch.stack([(own.argmax(1) == p.right).double(), own.double().softmax(1)[:, p.right]])
            seen.setdefault(p.question.id, []).append(won)
        accuracy, probability = torch.stack([torch.stack(presentations).mean(0) for presentations in seen.values()], dim=1)
        return cls(tuple({p.question.id: p.question for p in posed}.values()), accuracy, probability)

    @property
    def best_layer(self) -> int:
        """Where most questions are answered rightly; of several such layers the surest."""
        means = list(zip(self.accuracy.mean(0).tolist(), self.probability.mean(0).tolist(), strict=True))
        return means.index(max(means))

    @property
    def chance(self) -> float:
        return sum(1 / len(q.options) for q in self.questions) / len(self.questions)

    def readings(self, layer: int) -> tuple[Reading, Reading]:
        """The readings of an attack that goes by one layer."""
        def at(values: Tensor) -> dict[str, float]:
            return dict(zip((q.id for q in self.questions), values[:, layer].tolist(), strict=True))

        return (Reading(CONCEPT, "accuracy", at(self.accuracy), self.chance),
                Reading("concept_probability", "probability", at(self.probability), self.chance))

    def curve(self, chosen: int) -> dict[str, Any]:
        """Accuracy over the layers with its 95 % interval; `layer` counts from 0, after the first block."""
        bounds = [wilson(float(right), len(self.questions)) for right in self.accuracy.sum(0)]
        return {"layers": self.accuracy.mean(0).tolist(), "low": [low for low, _ in bounds], "high": [high for _, high in bounds],
                "layer": chosen, "chance": self.chance}
