"""Row restoration: whoever has the base copies its embedding rows back, and undoes that part of the edit bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ember_hub.evaluation.attacks.prompting import as_samples, put
from ember_hub.evaluation.base import Attack, Battery, Cost, concept_readings
from ember_hub.evaluation.presentation import tokens_read
from ember_hub.evaluation.reading import Measured

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject


class RestoreRows(Attack):
    """The base's input embedding in place of the edited one. An edit of the embedding alone is gone by definition.

    What it brings back is what a method that trains other weights did not take away by itself.
    """

    name: ClassVar[str] = "restore-rows"
    title: ClassVar[str] = "the base's rows copied back"
    reference: ClassVar[str] = "ember-hub; limit of the threat model"
    battery: ClassVar[Battery] = "quick"
    restores_by_definition: ClassVar[bool] = True

    def cost(self, subject: Subject) -> Cost:
        return Cost(read=tokens_read(len(subject.known()), subject.syllabus.format))

    def measure(self, subject: Subject) -> Measured:
        left = {name: change for name, change in subject.edit.changes.items() if name != subject.loaded.anatomy.embedding}
        questions = subject.known()
        with replace(subject, edit=replace(subject.edit, changes=left)).state() as loaded:
            answers = put(loaded, subject, questions)
        return Measured(concept_readings(questions, answers), as_samples(questions, answers), {"parameters_left": sorted(left)})
