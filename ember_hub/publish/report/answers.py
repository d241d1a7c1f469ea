"""What the model answered before and after, side by side: the evidence behind the accuracies, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

PARTS: Mapping[str, str] = MappingProxyType({
    "concept": "on the concept", "near_domain": "on near topics", "general": "on the world"})
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What one model state said to a question, and how often it was right of the times it was asked, each time in another way."""

    said: str
    right: float
    asked: int = 1

    @property
    def mark(self) -> Literal["right", "partly", "wrong"]:
        return "right" if self.right >= self.asked else "wrong" if self.right <= 0 else "partly"

    @property
    def told(self) -> str:
        """The mark in words."""
        return self.mark if self.mark != "partly" else f"right {self.right:g} of {self.asked} times"


@dataclass(frozen=True)
class Pair:
    """One question with the answers before and after; None where there is none."""

    question: str
    expected: str
    before: Answer | None
    after: Answer | None


@dataclass(frozen=True)
class Group:
    """The questions of one part, in the order of the pack."""

    title: str
    pairs: Sequence[Pair]


def chosen_answers(before: Sequence[Row], after: Sequence[Row]) -> list[Group]:
    """Multiple choice: what the base knew of the concept first, then the rest of each part."""
    asked = {(part, known): [row for row in before if row["part"] == part and row["known"] == known]
             for part in PARTS for known in (True, False)}
    groups = [Group(f"{'Questions it knew' if known else 'Other questions'} {PARTS[part]}", _pairs(rows, after, _choice))
              for (part, known), rows in asked.items()]
    return [group for group in groups if group.pairs]


def open_answers(before: Sequence[Row], after: Sequence[Row]) -> list[Group]:
    """Answers in the model's own words."""
    groups = [Group(f"Questions {title}", _pairs([row for row in before if row.get("part", "concept") == part], after, _text))
              for part, title in PARTS.items()]
    return [group for group in groups if group.pairs]


def _pairs(before: Sequence[Row], after: Sequence[Row], read: Callable[[Row], Answer]) -> list[Pair]:
    later = {row["id"]: row for row in after}
    return [Pair(row.get("question") or row.get("prompt", ""), _words(row.get("expected", row["answer"])), read(row),
                 read(later[row["id"]]) if row["id"] in later else None) for row in before]


def _choice(row: Row) -> Answer:
    return Answer(" / ".join(dict.fromkeys(row["chosen"])), row["accuracy"] * len(row["chosen"]), len(row["chosen"]))


def _text(row: Row) -> Answer:
    return Answer(row["answer"].strip() or "(nothing)", float(bool(row["verdict"])))


def _words(expected: Any) -> str:
    return " / ".join(expected) if isinstance(expected, list | tuple) else str(expected)
