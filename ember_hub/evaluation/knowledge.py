"""What a model knows: for each question, how probable it holds the right option to be.

Two numbers per question, both bounded: whether the right option is the likeliest, and the probability of the right
option among the options (softmax of their log-likelihoods). Each is the mean over the presentations. The mass that
the model puts on lettered answers at all is kept beside them, so that a broken model does not pass for an erased one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ember_hub.concepts.pack import Question
from ember_hub.evaluation.presentation import BARE, Format, Frame, Posed, Purpose, pose
from ember_hub.evaluation.token_tree import token_logprobs
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel


@dataclass(frozen=True)
class Answered:
    """One question as answered: means over the presentations, each in [0, 1]."""

    id: str
    accuracy: float
    probability: float
    mass: float
    """Probability of the options taken together: of any letter (letter), or of any of the four answers (answer)."""
    chance: float
    choices: tuple[int, ...]
    """The option chosen in each presentation, as an index into the question's options."""

    @property
    def always_right(self) -> bool:
        return self.accuracy == 1.0


def ask(loaded: LoadedModel, questions: Sequence[Question], format: Format, purpose: Purpose,
        progress: Progress | None = None, frame: Frame = BARE, most: int | None = None) -> list[Answered]:
    """Put the questions to the model, in every presentation of the format and purpose, or in the first few."""
    return _answers(loaded, questions, pose(questions, format, purpose, loaded.tokenizer, most, frame), progress)


def letter_mass(loaded: LoadedModel, questions: Sequence[Question]) -> list[float]:
    """How probable it is that the model answers each lettered question with one of its letters; one order suffices."""
    posed = pose(questions, "letter", "measure", loaded.tokenizer, most=1)
    return [answered.mass for answered in _answers(loaded, questions, posed, None)]


def _answers(loaded: LoadedModel, questions: Sequence[Question], posed: Sequence[Posed], progress: Progress | None
             ) -> list[Answered]:
    texts = [text for p in posed for text in p.texts]
    logprobs = token_logprobs(loaded, texts, progress=progress, title="questions")
    sums = iter(torch.stack([l.double().sum() for l in logprobs]))
    presentations: dict[str, list[tuple[Posed, torch.Tensor]]] = {}
    for p in posed:
        presentations.setdefault(p.question.id, []).append((p, torch.stack([next(sums) for _ in p.texts])))
    return [_answered(q, presentations[q.id]) for q in questions]


def _answered(question: Question, seen: Sequence[tuple[Posed, torch.Tensor]]) -> Answered:
    count = len(seen)
    # A model that computes no numbers gives no answer: nothing is right, and no mass lies on any option.
    seen = [(p, scores.nan_to_num(nan=-torch.inf)) for p, scores in seen]
    return Answered(
        id=question.id,
        accuracy=sum(_right(scores, p.right) for p, scores in seen) / count,
        probability=sum(float(scores.softmax(0).nan_to_num()[p.right]) for p, scores in seen) / count,
        mass=sum(min(1.0, float(scores.exp().sum())) for _, scores in seen) / count,
        chance=1 / len(question.options),
        # A rotated order is turned back, so that the index means the same option in every presentation.
        choices=tuple((int(scores.argmax()) - p.right + question.right) % len(question.options) for p, scores in seen),
    )


def _right(scores: torch.Tensor, right: int) -> float:
    """1 if the right option is the likeliest alone; of a tie its share, for a model that prefers nothing knows nothing."""
    best = (scores == scores.max()) & scores.isfinite()
    return float(best[right]) / max(1, int(best.sum()))


def known(chosen: Sequence[Answered]) -> frozenset[str]:
    """Ids of the questions answered rightly in every presentation used for choosing."""
    return frozenset(a.id for a in chosen if a.always_right)


def better_format(tune: Mapping[Format, Sequence[Answered]]) -> Format:
    """The format in which the base shows more of what it knows; ties go to likelihood of the answer."""
    accuracy = {format: sum(a.accuracy for a in answers) for format, answers in tune.items()}
    return "letter" if accuracy["letter"] > accuracy["answer"] else "answer"
