"""The evaluations that every battery begins with: what is known, in the format that suits the base, and ordinary text."""

from __future__ import annotations

from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from ember_hub.concepts.combined import concept_of
from ember_hub.errors import EvaluationError
from ember_hub.evaluation.base import Battery, Cost, Evaluation
from ember_hub.evaluation.examination import HEALTH_QUESTIONS, PARTS, Examiner, Part
from ember_hub.evaluation.knowledge import Answered
from ember_hub.evaluation.language import reread
from ember_hub.evaluation.presentation import tokens_read
from ember_hub.evaluation.reading import Measured, Reading

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject

TOKENS_OF_SENTENCE = 40


class Questions(Evaluation):
    """Concept, near-domain and general questions as multiple choice by likelihood, and the mass on valid answers."""

    name: ClassVar[str] = "questions"
    title: ClassVar[str] = "multiple choice by likelihood"
    reference: ClassVar[str] = "EMBER, arXiv 2606.03695; scored without generation"
    battery: ClassVar[Battery] = "quick"
    scores: ClassVar[tuple[str, ...]] = (*(f"{part}_{what}" for part in PARTS for what in ("known", "probability", "all")),
                                         "valid_mass_concept", "valid_mass_other")

    def cost(self, subject: Subject) -> Cost:
        asked = [len(subject.pack.asked(part, "test")) for part in ("questions", "near_domain", "general")]
        lettered = sum(min(HEALTH_QUESTIONS["test"], count) for count in asked)
        return Cost(read=tokens_read(sum(asked), subject.syllabus.format) + tokens_read(lettered, "letter", most=1))

    def measure(self, subject: Subject) -> Measured:
        with subject.state() as loaded:
            answers, mass = Examiner(loaded, subject.pack, subject.progress).asked(subject.syllabus)
        readings = [reading for part in PARTS for reading in _readings(part, answers[part], subject.syllabus.known["test"][part])]
        readings += _by_concept(subject, answers["concept"])
        concept = {f"concept-{i}": value for i, value in enumerate(mass["concept"])}
        others = {f"{part}-{i}": value for part in PARTS if part != "concept" for i, value in enumerate(mass[part])}
        readings += [Reading(name, "mass", values) for name, values in
                     (("valid_mass_concept", concept), ("valid_mass_other", others)) if values]
        return Measured(tuple(readings), samples=_samples(subject, answers))


class NeutralText(Evaluation):
    """Loss on sentences that have nothing to do with the concept, and how far the predictions are from the base's.

    Their words counted as ordinary when the rows were chosen, so rows that occur in them were spared.
    """

    name: ClassVar[str] = "neutral-text"
    title: ClassVar[str] = "ordinary text"
    reference: ClassVar[str] = "EMBER, arXiv 2606.03695; perplexity in place of a judge"
    battery: ClassVar[Battery] = "quick"
    scores: ClassVar[tuple[str, ...]] = ("neutral_loss", "neutral_kl")

    def cost(self, subject: Subject) -> Cost:
        return Cost(read=len(subject.pack.neutral_part("test")) * TOKENS_OF_SENTENCE)

    def measure(self, subject: Subject) -> Measured:
        sentences = subject.pack.neutral_part("test")
        with subject.state() as loaded:
            losses, apart = reread(loaded, sentences, subject.predictions)
        if not all(map(isfinite, losses)):
            raise EvaluationError("the model computes NaN on ordinary text",
                                  hint="it is broken, or too large for its number type: load it with --dtype bfloat16")
        return Measured((Reading("neutral_loss", "nats", _numbered(losses), better="lower"),
                         # Positions of one sentence are not independent: sentences are what an interval may resample.
                         Reading("neutral_kl", "nats", _numbered([fmean(one) for one in apart if one]), better="lower")))


def _readings(part: Part, answers: list[Answered], known: frozenset[str]) -> list[Reading]:
    if not answers:
        return []
    found, of_known = [], [a for a in answers if a.id in known]
    if of_known:
        chance = fmean(a.chance for a in of_known)
        found = [Reading(f"{part}_known", "accuracy", {a.id: a.accuracy for a in of_known}, chance),
                 Reading(f"{part}_probability", "probability", {a.id: a.probability for a in of_known}, chance)]
    return [*found, Reading(f"{part}_all", "accuracy", {a.id: a.accuracy for a in answers}, fmean(a.chance for a in answers))]


def _by_concept(subject: Subject, answers: list[Answered]) -> list[Reading]:
    """Accuracy on the known questions of each concept alone, where a run has several."""
    known = subject.syllabus.known["test"]["concept"]
    found = []
    for part in subject.pack.parts:
        own = [a for a in answers if a.id in known and concept_of(a.id, subject.pack) == part.name]
        if own:
            found.append(Reading(f"{part.name}_known", "accuracy", {a.id: a.accuracy for a in own}, fmean(a.chance for a in own)))
    return found


def _samples(subject: Subject, answers: dict[Part, list[Answered]]) -> tuple[dict, ...]:
    """How each question was answered: the evidence behind the accuracies."""
    asked = {q.id: q for part in ("questions", "near_domain", "general") for q in subject.pack.asked(part, "test")}
    return tuple({"id": a.id, "part": part, "known": a.id in subject.syllabus.known["test"][part],
                  "question": asked[a.id].question, "answer": asked[a.id].answer,
                  "chosen": [asked[a.id].options[i] for i in a.choices],
                  "accuracy": a.accuracy, "probability": round(a.probability, 4)} for part in PARTS for a in answers[part])


def _numbered(values: list[float]) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}
