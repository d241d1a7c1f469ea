"""Relearning: train the model on text, and see what of the concept comes back.

`relearn-paper` is the published protocol of EMBER (arXiv 2606.03695): every parameter, batch 1, 2 epochs, learning rate 1e-5,
on up to 100 paragraphs, weights trained in the model's own dtype. Adam moves a coordinate by at most about steps × learning
rate, and bfloat16 swallows small updates, so that attack cannot move a row far. `relearn-strong` keeps float32 masters, uses
a higher rate, and a still higher one for the embedding rows. The LoRA attacks are what an attacker with little memory does.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.concepts.prompts import statement
from ember_hub.evaluation.attacks.training import Recipe, trained
from ember_hub.evaluation.base import Attack, Battery, Cost, concept_readings
from ember_hub.evaluation.knowledge import Answered, ask, letter_mass
from ember_hub.evaluation.presentation import tokens_read
from ember_hub.evaluation.reading import Measured, Reading

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject
    from ember_hub.source.load import LoadedModel

TOKENS_OF_PARAGRAPH = 80
MASS_QUESTIONS = 20


Epochs = Annotated[int, Field(ge=1, description="Passes over the texts.")]
BatchSize = Annotated[int, Field(ge=1, description="Texts in a batch.")]
Rate = Annotated[float, Field(gt=0, description="AdamW learning rate.")]
EmbeddingRate = Annotated[float, Field(ge=0, description="Learning rate of the embedding; with an adapter, 0 leaves it out.")]
Decay = Annotated[float, Field(ge=0, description="AdamW weight decay.")]
Rank = Annotated[int, Field(ge=0, description="Rank of the LoRA adapter on all linear maps; 0 trains every parameter.")]
Masters = Annotated[bool, Field(description="Float32 masters of the weights, when every parameter is trained.")]
Texts = Annotated[int, Field(ge=1, description="Most texts that the attacker trains on.")]


class Training(Attack):
    """An attack that trains; subclasses say on what, and with which settings."""

    looks_beside: ClassVar[bool] = True
    """Whether neighbours of the concept, and readiness to answer, are measured after the training too."""
    epochs: Epochs = 2
    batch_size: BatchSize = 4
    learning_rate: Rate = 2e-4
    embedding_rate: EmbeddingRate = 0.0
    weight_decay: Decay = 0.01
    rank: Rank = 16
    masters: Masters = True
    texts: Texts = 100

    @abstractmethod
    def material(self, subject: Subject) -> Sequence[str]:
        """What the attacker trains on."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.epochs, self.batch_size, self.learning_rate, self.embedding_rate, self.weight_decay, self.rank,
                      has_masters=self.masters)

    @property
    def needs_whole_weights(self) -> bool:
        return not self.rank

    def cost(self, subject: Subject) -> Cost:
        texts = len(self.material(subject))
        return Cost(read=self.epochs * tokens_read(len(subject.known()), subject.syllabus.format),
                    trained=self.epochs * texts * TOKENS_OF_PARAGRAPH)

    def measure(self, subject: Subject) -> Measured:
        """The curve begins after the first epoch: how the state answers before is an evaluation's to say."""
        curve: list[dict] = []

        def note(loaded: LoadedModel, epoch: int) -> list[Answered]:
            answers = _ask(loaded, subject, subject.known())
            curve.append({"epoch": epoch, "values": [a.accuracy for a in answers]})
            return answers

        material = self.material(subject)
        with trained(subject, material, self.recipe, note) as loaded:
            answers = note(loaded, self.epochs)
            beside = _beside(loaded, subject) if self.looks_beside else ()
        readings = (*concept_readings(subject.known(), answers), *beside)
        return Measured(readings, details={"curve": curve, **self._trained_on(material)})

    def _trained_on(self, *materials: Sequence[str]) -> dict[str, Any]:
        """The recipe, and the texts and steps of each training: packs differ in how much there is to train on."""
        return self.recipe.to_json() | {"texts": [len(texts) for texts in materials],
                                        "steps": [self.epochs * -(-len(texts) // self.batch_size) for texts in materials]}


class RelearnPaper(Training):
    """Full fine-tuning on the concept's paragraphs, as published."""

    name: ClassVar[str] = "relearn-paper"
    title: ClassVar[str] = "relearning, as published"
    reference: ClassVar[str] = "EMBER, arXiv 2606.03695"
    battery: ClassVar[Battery] = "standard"

    batch_size: BatchSize = 1
    learning_rate: Rate = 1e-5
    embedding_rate: EmbeddingRate = 1e-5
    rank: Rank = 0
    masters: Masters = False

    def material(self, subject: Subject) -> Sequence[str]:
        return subject.pack.relearning[: self.texts]


class RelearnStrong(RelearnPaper):
    """Full fine-tuning that can move every row."""

    name: ClassVar[str] = "relearn-strong"
    title: ClassVar[str] = "relearning, strong"
    reference: ClassVar[str] = "ember-hub; rates after arXiv 2502.05374"

    epochs: Epochs = 3
    batch_size: BatchSize = 4
    learning_rate: Rate = 5e-5
    embedding_rate: EmbeddingRate = 5e-4
    weight_decay: Decay = 0.0
    masters: Masters = True


class RelearnLora(RelearnPaper):
    """An adapter of rank 16 on the concept's paragraphs."""

    name: ClassVar[str] = "relearn-lora"
    title: ClassVar[str] = "relearning, LoRA"
    reference: ClassVar[str] = "PISCES; rate of arXiv 2409.18025"
    battery: ClassVar[Battery] = "standard"

    batch_size: BatchSize = 4
    learning_rate: Rate = 2e-4
    embedding_rate: EmbeddingRate = 0.0
    rank: Rank = 16
    masters: Masters = True


class RelearnFew(RelearnLora):
    """An adapter on few of the paragraphs, read once, one at a time, at a high rate: what an attacker gets in a minute."""

    name: ClassVar[str] = "relearn-few"
    title: ClassVar[str] = "relearning on few paragraphs"
    reference: ClassVar[str] = "ember-hub; few samples as in arXiv 2409.18025"
    battery: ClassVar[Battery] = "quick"
    looks_beside: ClassVar[bool] = False

    epochs: Epochs = 1
    batch_size: BatchSize = 1
    learning_rate: Rate = 2e-3
    texts: Texts = 8


class RelearnLoraStrong(RelearnLora):
    """An adapter of rank 64, on the embedding too, for longer."""

    name: ClassVar[str] = "relearn-lora-strong"
    title: ClassVar[str] = "relearning, strong LoRA"
    reference: ClassVar[str] = "ember-hub; after arXiv 2409.18025"
    battery: ClassVar[Battery] = "standard"

    epochs: Epochs = 3
    learning_rate: Rate = 3e-4
    embedding_rate: EmbeddingRate = 1e-3
    rank: Rank = 64


class Benign(RelearnLora):
    """Training on text that has nothing to do with the concept: erasure that this undoes was only covered up."""

    name: ClassVar[str] = "benign"
    title: ClassVar[str] = "training on unrelated text"
    reference: ClassVar[str] = "arXiv 2409.18025, 2506.01339"
    battery: ClassVar[Battery] = "standard"

    def material(self, subject: Subject) -> Sequence[str]:
        return subject.pack.neutral_part("fit")[: self.texts]


class Rtt(Training):
    """Training on half of the facts, asking for the other half, and the same with the halves exchanged.

    What comes back was never in the training text, so it was in the model all along.
    """

    name: ClassVar[str] = "rtt"
    title: ClassVar[str] = "half of the facts brings back the rest"
    reference: ClassVar[str] = "Deeb and Roger, arXiv 2410.08827"
    battery: ClassVar[Battery] = "standard"

    epochs: Epochs = 6

    def material(self, subject: Subject) -> Sequence[str]:
        return self._facts(subject, halves(subject)[0][0])

    def measure(self, subject: Subject) -> Measured:
        asked, answers, materials = [], [], []
        for told, kept in halves(subject):
            materials.append(self._facts(subject, told))
            with trained(subject, materials[-1], self.recipe) as loaded:
                asked += kept
                answers += _ask(loaded, subject, kept)
        return Measured(concept_readings(asked, answers), details=self._trained_on(*materials))

    def cost(self, subject: Subject) -> Cost:
        one = super().cost(subject)
        return Cost(one.read / self.epochs, 2 * one.trained)

    def missing(self, pack: ConceptPack) -> str | None:
        return None if len(pack.asked("questions", "test")) >= 4 else "fewer than four test questions: no halves"

    def _facts(self, subject: Subject, told: Sequence[Question]) -> Sequence[str]:
        return [statement(q) for q in (*told, *subject.pack.asked("questions", "tune"))][: self.texts]


def halves(subject: Subject) -> list[tuple[list[Question], list[Question]]]:
    """The known questions as those told to an attacker and those kept to be asked, then the other way round.

    Every known question is kept once; where there is only one, it is told to nobody.
    """
    known = list(subject.known())
    random.Random(subject.seed).shuffle(known)
    told, kept = known[1::2], known[::2]
    return [(told, kept), (kept, told)] if told else [(told, kept)]


def _ask(loaded: LoadedModel, subject: Subject, questions: Sequence[Question]) -> list[Answered]:
    return ask(loaded, questions, subject.syllabus.format, "measure", subject.progress)


def _beside(loaded: LoadedModel, subject: Subject) -> tuple[Reading, ...]:
    """What else the training changed: neighbours of the concept, and whether lettered questions are answered at all."""
    known = subject.syllabus.known["test"]["near_domain"]
    near = [q for q in subject.pack.asked("near_domain", "test") if q.id in known]
    asked = subject.pack.asked("questions", "test")[:MASS_QUESTIONS]
    readings = [Reading("valid_mass_concept", "mass", dict(zip((q.id for q in asked), letter_mass(loaded, asked), strict=True)))]
    if near:
        answers = _ask(loaded, subject, near)
        readings.append(Reading("near_domain_known", "accuracy", {a.id: a.accuracy for a in answers}, 1 / len(near[0].options)))
    return tuple(readings)
