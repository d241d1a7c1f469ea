"""What an evaluation and an attack are: settings in, readings of one model state out.

A third party adds one with a class and an entry point in the group `ember_hub.evaluations` or `ember_hub.attacks`. The class's
fields are its settings (`--set NAME.key=value`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.evaluation.knowledge import Answered
from ember_hub.evaluation.reading import Measured, Reading

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject

Battery = Literal["quick", "standard", "full"]
BATTERIES: tuple[Battery, ...] = ("quick", "standard", "full")
"""Each contains the ones before it."""
CONCEPT = "concept_known"
"""The reading that every attack takes first: accuracy on the concept's test questions that the base knows."""


@dataclass(frozen=True)
class Cost:
    """What one measurement of one model state costs, in tokens: for the estimate that is printed before the work begins."""

    read: float = 0
    """Tokens that pass forward."""
    trained: float = 0
    """Tokens that pass forward and backward."""
    written: float = 0
    """Tokens generated, in batches."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.read + other.read, self.trained + other.trained, self.written + other.written)


class Instrument(BaseModel, ABC):
    """What evaluations and attacks have in common; the fields are the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    """"evaluation" or "attack"."""
    name: ClassVar[str]
    title: ClassVar[str]
    """One line, as it stands in tables and figures."""
    reference: ClassVar[str]
    battery: ClassVar[Battery]
    """The smallest battery that it belongs to."""
    scores: ClassVar[tuple[str, ...]] = ()
    """Names of the readings it takes, by which a gate may ask for them."""
    reproducible: ClassVar[bool] = True
    """Whether the same state gives the same numbers on the same machine; false with a remote judge."""

    @property
    def needs_whole_weights(self) -> bool:
        """Whether it copies or changes every weight, which a model that is quantized or lies in parts does not allow."""
        return False

    def missing(self, pack: ConceptPack) -> str | None:
        """Why it cannot be measured with this pack, this machine and these settings; None when it can."""
        return None

    def sources(self) -> Sequence[Path]:
        """Files of this machine that it reads: when one of them changes, so does what it measures."""
        return ()

    @abstractmethod
    def cost(self, subject: Subject) -> Cost:
        """About how much work one model state is."""

    @abstractmethod
    def measure(self, subject: Subject) -> Measured:
        """Measure one state. The base in memory is bit for bit as it was afterwards."""


class Evaluation(Instrument):
    """One measured property of a model state."""

    kind: ClassVar[str] = "evaluation"


class Attack(Instrument):
    """One attempt to bring the knowledge back; its first reading is `concept_known`.

    The same attack is made on the base, on each control, and on the base with a concept that no model knows.
    """

    kind: ClassVar[str] = "attack"
    restores_by_definition: ClassVar[bool] = False
    """True for what undoes the edit itself: reported as a limit of the threat model, not counted in the headline."""


def concept_readings(questions: Sequence[Question], answers: Sequence[Answered]) -> tuple[Reading, ...]:
    """The readings of an attack that asks multiple-choice questions: accuracy first, then probability of the right option."""
    chance = sum(1 / len(q.options) for q in questions) / len(questions)
    return (Reading(CONCEPT, "accuracy", {a.id: a.accuracy for a in answers}, chance),
            Reading("concept_probability", "probability", {a.id: a.probability for a in answers}, chance))
