"""A soft prompt: free vectors before the question, trained until the model answers.

Such vectors elicit almost anything (arXiv 2502.15836), so they are trained on half of the questions and asked the other half; what
they teach rather than bring back shows on a concept that no model knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.evaluation.attacks.hidden import Choices
from ember_hub.evaluation.attacks.relearning import halves
from ember_hub.evaluation.base import Attack, Battery, Cost
from ember_hub.evaluation.presentation import Posed, pose, tokens_read
from ember_hub.evaluation.reading import Measured
from ember_hub.evaluation.token_tree import Text, mean_loss, token_logprobs

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject
    from ember_hub.source.load import LoadedModel

SAMPLED_ROWS = 1024


@dataclass(frozen=True)
class Prompt:
    """Free vectors, and the placeholder tokens in whose place the model reads them."""

    vectors: Float[Tensor, "tokens d_model"]
    placeholder: int
    first: int
    """Position of the first of them: after what the tokenizer puts before every text."""

    @classmethod
    def start(cls, loaded: LoadedModel, tokens: int, text: Text) -> Prompt:
        """Exclamation marks, before a text like this one."""
        placeholder = loaded.tokenizer("!", add_special_tokens=False).input_ids[-1]
        opening = loaded.tokenizer("").input_ids
        first = len(opening) if list(text.ids[:len(opening)]) == opening else 0
        ids = torch.full((tokens,), placeholder, device=loaded.device)
        return cls(loaded.model.get_input_embeddings()(ids).float().clone().requires_grad_(), placeholder, first)

    def before(self, text: Text) -> Text:
        """The text with the placeholders in it."""
        marks = (self.placeholder,) * len(self.vectors)
        return Text((*text.ids[:self.first], *marks, *text.ids[self.first:]), text.start + len(marks))

    @contextmanager
    def read_by(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model reads the vectors in place of the placeholders, after any scaling of its embedding."""
        def exchange(_: nn.Module, __: tuple, embedded: Tensor) -> Tensor:
            given = self.vectors.to(embedded).expand(len(embedded), -1, -1)
            return torch.cat([embedded[:, :self.first], given, embedded[:, self.first + len(self.vectors):]], dim=1)

        with model.get_input_embeddings().register_forward_hook(exchange):
            yield


class SoftPrompt(Attack):
    """Vectors trained on half of the questions and asked the rest, and the same with the halves exchanged."""

    name: ClassVar[str] = "soft-prompt"
    title: ClassVar[str] = "soft prompt: trained vectors before the question"
    reference: ClassVar[str] = "Schwinn et al., arXiv 2402.09063"
    battery: ClassVar[Battery] = "full"

    tokens: int = Field(20, ge=1, description="Free vectors before the question.")
    iterations: int = Field(100, ge=1, description="Steps of signed gradient.")
    step: float = Field(0.05, gt=0, description="Length of a step, in root mean square coordinates of the embedding.")
    batch_size: int = Field(8, ge=1, description="Questions in a batch.")

    def missing(self, pack: ConceptPack) -> str | None:
        return None if len(pack.asked("questions", "test")) >= 4 else "fewer than four test questions: no halves"

    def cost(self, subject: Subject) -> Cost:
        asked = tokens_read(1, subject.syllabus.format, most=1)
        return Cost(read=2 * len(subject.known()) * (self.tokens + asked),
                    trained=2 * self.iterations * (self.tokens + self.batch_size * asked))

    def measure(self, subject: Subject) -> Measured:
        posed: list[Posed] = []
        scores: list[Tensor] = []
        with subject.state() as loaded:
            for told, kept in halves(subject):
                asked = _posed(kept, subject)
                prompt = self.trained(loaded, _posed((*told, *subject.pack.asked("questions", "tune")), subject), subject)
                posed += asked
                scores += _scores(loaded, prompt, asked, subject)
        return Measured(Choices.of(posed, scores).readings(0))

    def trained(self, loaded: LoadedModel, posed: Sequence[Posed], subject: Subject) -> Prompt:
        """A prompt after which the questions are answered rightly."""
        texts = [p.texts[p.right] for p in posed]
        prompt = Prompt.start(loaded, self.tokens, texts[0])
        length, dice, queue = self.step * _typical_coordinate(loaded), random.Random(subject.seed), []
        with subject.progress.steps("soft prompt", self.iterations) as advance, prompt.read_by(loaded.model):
            for _ in range(self.iterations):
                while len(queue) < self.batch_size:
                    queue += dice.sample(texts, len(texts))
                batch, queue = queue[:self.batch_size], queue[self.batch_size:]
                gradient, = torch.autograd.grad(mean_loss(loaded, [prompt.before(text) for text in batch]), prompt.vectors)
                with torch.no_grad():
                    prompt.vectors.sub_(length * gradient.sign())
                advance(1)
        return prompt


def _posed(questions: Sequence[Question], subject: Subject) -> list[Posed]:
    return pose(questions, subject.syllabus.format, "measure", subject.loaded.tokenizer)


def _typical_coordinate(loaded: LoadedModel) -> float:
    """Root mean square of what the model reads for a token, over a sample of its vocabulary."""
    ids = torch.arange(0, loaded.anatomy.vocab, max(1, loaded.anatomy.vocab // SAMPLED_ROWS), device=loaded.device)
    return float(loaded.model.get_input_embeddings()(ids).float().square().mean().sqrt())


def _scores(loaded: LoadedModel, prompt: Prompt, posed: Sequence[Posed], subject: Subject) -> list[Float[Tensor, "1 option"]]:
    """Log-likelihood of every option after the prompt."""
    texts = [prompt.before(text) for p in posed for text in p.texts]
    with prompt.read_by(loaded.model):
        logprobs = token_logprobs(loaded, texts, progress=subject.progress, title="questions")
    sums = torch.stack([own.double().sum() for own in logprobs])
    return [own[None] for own in sums.split([len(p.texts) for p in posed])]
