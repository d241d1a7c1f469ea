"""A model state to examine: a tiny model, a pack all of whose questions count as known, and an edit."""

from __future__ import annotations

from ember_hub.concepts.pack import ConceptPack
from ember_hub.edits.edit import Edit
from ember_hub.evaluation.examination import PARTS, Syllabus
from ember_hub.evaluation.language import predictions
from ember_hub.evaluation.presentation import Format
from ember_hub.evaluation.subject import Subject
from ember_hub.progress import Quiet
from ember_hub.source.load import LoadedModel


def subject(loaded: LoadedModel, pack: ConceptPack, edit: Edit | None = None, tokens: tuple[int, ...] = (),
            format: Format = "answer", seed: int = 0) -> Subject:
    """The subject of an attack; without an edit it is the base."""
    known = {split: {part: frozenset(q.id for q in pack.asked("questions" if part == "concept" else part, split)) for part in PARTS}
             for split in ("tune", "test")}
    syllabus, sentences = Syllabus(format, known), pack.neutral_part("test")
    return Subject(loaded, edit or Edit.none(), pack, syllabus, predictions(loaded, sentences), tokens, seed, Quiet())


def weights(loaded: LoadedModel) -> dict:
    """A copy of every parameter, to compare with."""
    return {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
