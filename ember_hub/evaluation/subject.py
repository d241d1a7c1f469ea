"""The model state under examination, and what its examiners may know about it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.edits.apply import applied, write
from ember_hub.edits.edit import Edit
from ember_hub.evaluation.examination import Syllabus
from ember_hub.evaluation.language import Predictions
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel


@dataclass(frozen=True)
class Subject:
    """One model state: the base in memory, and the edit that makes the state of it.

    tokens: vocabulary rows that the audited edit changes, the same for every state of an audit (controls too).
    """

    loaded: LoadedModel
    edit: Edit
    pack: ConceptPack
    syllabus: Syllabus
    predictions: Predictions
    """The base's next-token predictions on the neutral test sentences."""
    tokens: tuple[int, ...]
    seed: int
    progress: Progress

    @contextmanager
    def state(self) -> Iterator[LoadedModel]:
        """The model in this state; outside the block it is the base. Nothing that happens inside may write weights."""
        with applied(self.loaded.model, self.edit):
            yield self.loaded

    def victim(self) -> LoadedModel:
        """A copy in this state, for attacks that write weights; the caller drops it."""
        victim = replace(self.loaded, model=copy.deepcopy(self.loaded.model))
        write(victim.model, self.edit)
        return victim

    def known(self) -> tuple[Question, ...]:
        """The concept's test questions that the base answers rightly: what an attacker wants back."""
        known = self.syllabus.known["test"]["concept"]
        return tuple(q for q in self.pack.asked("questions", "test") if q.id in known)

    def stranger(self, pack: ConceptPack) -> Subject:
        """The unedited base facing a concept that no model knows: what an attack teaches instead of bringing back.

        Every question counts as known, so that accuracies under attack are comparable.
        """
        everything = {split: {**parts, "concept": frozenset(q.id for q in pack.asked("questions", split))}
                      for split, parts in self.syllabus.known.items()}
        return replace(self, edit=Edit.none(), pack=pack, syllabus=replace(self.syllabus, known=everything), tokens=())
