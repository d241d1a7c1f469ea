"""Linear probes: whether a layer's hidden state still tells a right answer from a wrong one, whatever the model says.

A ridge classifier on the state at the last token of question and answer, fitted on the pack's tune questions. What a probe
learns from phrasing alone shows on a concept that no model knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.evaluation.attacks.hidden import Choices, hidden_states
from ember_hub.evaluation.base import Attack, Battery, Cost
from ember_hub.evaluation.examination import PARTS
from ember_hub.evaluation.presentation import Posed, pose
from ember_hub.evaluation.reading import Measured

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject
    from ember_hub.evaluation.token_tree import Text
    from ember_hub.source.load import LoadedModel

FEWEST = 8
"""Below this many questions there is nothing to fit."""
PENALTIES = torch.logspace(-3, 2, 11, dtype=torch.float64)
"""In mean squared lengths of the fitted states."""
TOKENS_OF_QUESTION = 50


class LinearProbe(Attack):
    """Every layer's hidden state after each option, classified; penalty and layer by leaving out one tune question at a time."""

    name: ClassVar[str] = "linear-probe"
    title: ClassVar[str] = "linear probe: the best layer tells right from wrong"
    reference: ClassVar[str] = "Alain and Bengio, arXiv 1610.01644"
    battery: ClassVar[Battery] = "standard"

    def missing(self, pack: ConceptPack) -> str | None:
        found = sum(q.split == "tune" for q in (*pack.questions, *pack.near_domain, *pack.general))
        return None if found >= FEWEST else f"{found} tune questions: too few to fit a probe"

    def cost(self, subject: Subject) -> Cost:
        return Cost(read=(len(_fitted(subject)) + len(subject.known())) * TOKENS_OF_QUESTION)

    def measure(self, subject: Subject) -> Measured:
        with subject.state() as loaded:
            (tune, fitted), (test, asked) = (_states(loaded, subject, q) for q in (_fitted(subject), subject.known()))
        owners = torch.tensor([i for i, p in enumerate(tune) for _ in p.texts])
        right = torch.tensor([float(k == p.right) for p in tune for k in range(len(p.texts))], dtype=torch.float64)
        fits = [fit(states.double(), owners, right) for states in fitted]
        scores = torch.stack([states.double() @ found.weights for states, found in zip(asked, fits, strict=True)])
        layer = min(range(len(fits)), key=lambda i: fits[i].error)
        choices = Choices.of(test, scores.split([len(p.texts) for p in test], dim=1))
        return Measured(choices.readings(layer)[:1], details=choices.curve(layer))


@dataclass(frozen=True)
class Fit:
    """A ridge regression, and how it does on a question that it has not seen."""

    weights: Float[Tensor, " d_model"]
    left_out: Float[Tensor, " n"]
    """Score of every option when its own question was left out of the fit."""
    error: float
    """Mean squared error of these scores."""


def fit(states: Float[Tensor, "n d_model"], owners: Int[Tensor, " n"], right: Float[Tensor, " n"]) -> Fit:
    """Tell right options from wrong ones, with the penalty that errs least on left-out questions.

    Options are compared with the others of their question, so what all of them share (the topic) has no say. `owners` is the
    question of each option. Solved in the space of the options, which are mostly fewer than the coordinates; the residuals of a
    left-out question q are exact: (G_qq)⁻¹ (G y)_q with G = (X Xᵀ + λ)⁻¹.
    """
    same = (owners[:, None] == owners).double()
    within = torch.eye(len(owners), dtype=torch.float64) - same / same.sum(1)
    apart, wanted = within @ states, within @ right
    scale = apart.std(0).clamp_min(torch.finfo(torch.float32).tiny)
    apart = apart / scale
    kernel = apart @ apart.T
    values, vectors = torch.linalg.eigh(kernel)
    fits = []
    for penalty in PENALTIES * kernel.diag().mean():
        inverse = (vectors / (values + penalty)) @ vectors.T
        dual = inverse @ wanted
        residuals = torch.linalg.solve(inverse * same, dual)
        fits.append(Fit(apart.T @ dual / scale, wanted - residuals, float(residuals.square().mean())))
    return min(fits, key=lambda one: one.error)


def _fitted(subject: Subject) -> tuple[Question, ...]:
    """The tune questions of all parts that the base knows: from the others a probe learns noise."""
    asked = {part: subject.pack.asked("questions" if part == "concept" else part, "tune") for part in PARTS}
    known = tuple(q for part in PARTS for q in asked[part] if q.id in subject.syllabus.known["tune"][part])
    return known if len(known) >= FEWEST else tuple(q for part in PARTS for q in asked[part])


def _states(loaded: LoadedModel, subject: Subject, questions: Sequence[Question]
            ) -> tuple[list[Posed], Float[Tensor, "layer n d_model"]]:
    """The state at the last token of every option, in one wording."""
    posed = pose(questions, "answer", "measure", loaded.tokenizer, most=1)
    count = sum(len(p.texts) for p in posed)
    with subject.progress.steps("hidden states", count) as advance:
        passes = list(hidden_states(loaded, posed, _last, advance))
    order = torch.tensor([text for found in passes for text in found.texts]).argsort()
    return posed, torch.cat([found.values[:, [row for row, in found.rows]].cpu() for found in passes], dim=1)[:, order]


def _last(text: Text) -> range:
    return range(len(text.ids) - 1, len(text.ids))

