"""What was read off one model state: a named quantity, item by item, so that two states can be compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ember_hub.evaluation.score import Score, Unit, mean, proportion

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Reading:
    """One quantity of one model state.

    values: by item (a question, a sentence, a prompt), each a fraction or in the unit.
    better: which way a model that keeps its abilities should move.
    format: how it was asked: among options, whose number is chance, or openly, where each state has a chance of its own.
    """

    name: str
    unit: Unit
    values: Mapping[str, float]
    chance: float | None = None
    better: Better = "higher"
    format: Literal["options", "open"] = "options"

    def is_asked_like(self, other: Reading) -> bool:
        """Whether both were asked in one format, at one level of chance."""
        return self.format == other.format and math.isclose(self.chance or 0.0, other.chance or 0.0, abs_tol=1e-6)

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / len(self.values)

    def score(self, stage: str, split: str = "test") -> Score:
        """The mean with its 95 % interval: Wilson's for accuracies, bootstrapped for everything else.

        Shares of yes and no are accuracies in this, and so is a share of one item, from which nothing can be resampled.
        """
        values = list(self.values.values())
        is_counted = self.unit == "fraction" and set(values) <= {0.0, 1.0}
        if self.unit == "accuracy" or is_counted or (self.unit != "nats" and len(values) == 1):
            return replace(proportion(self.name, stage, split, values, self.chance), unit=self.unit)
        return mean(self.name, stage, split, values, self.unit, self.chance)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Reading:
        return cls(**row)


@dataclass(frozen=True)
class Measured:
    """What an evaluation or an attack found in one model state.

    samples: prompts with their answers and verdicts, the evidence behind the numbers.
    details: what only this evaluation has, such as a curve over epochs or a value for each layer; plain JSON.
    """

    readings: Sequence[Reading]
    samples: Sequence[Mapping[str, Any]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Measured:
        return cls(tuple(map(Reading.from_json, row["readings"])), tuple(row["samples"]), row["details"])

    def named(self, name: str) -> Reading | None:
        """The reading of that name, if it was taken."""
        return next((reading for reading in self.readings if reading.name == name), None)
