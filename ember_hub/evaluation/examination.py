"""The same examination for every model state: what it knows, whether it still answers, how it writes ordinary text.

The base is examined first. Which format suits it, and which questions it knows, is decided there once, and every later
state is asked the same questions in the same presentations. The search takes a quick look at the tune split; the test split
belongs to the evaluations and attacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ember_hub.concepts.pack import ConceptPack, Question, Split
from ember_hub.evaluation.knowledge import Answered, ask, better_format, known, letter_mass
from ember_hub.evaluation.language import neutral_loss
from ember_hub.evaluation.presentation import Format
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

Part = Literal["concept", "near_domain", "general"]
PARTS: tuple[Part, ...] = ("concept", "near_domain", "general")
_FIELDS: Mapping[Part, Literal["questions", "near_domain", "general"]] = {
    "concept": "questions", "near_domain": "near_domain", "general": "general"}
HEALTH_QUESTIONS: dict[Split, int] = {"tune": 8, "test": 12}
"""Questions of each part on which the mass on lettered answers is measured, of the tune split half at most."""
TUNE_QUESTIONS = 24
"""Known questions of each part that the search asks a candidate, half of the part's questions at most."""


@dataclass(frozen=True)
class Measurement:
    """One model state as the search sees it, question by question and sentence by sentence."""

    answers: Mapping[Part, Sequence[Answered]]
    mass: Mapping[Part, Sequence[float]]
    """Probability that the next token is one of the offered letters, for each health question."""
    losses: Sequence[float] = ()

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping) -> Measurement:
        answers = {part: [Answered(**{**a, "choices": tuple(a["choices"])}) for a in list_]
                   for part, list_ in row["answers"].items()}
        return cls(answers, row["mass"], row["losses"])


@dataclass(frozen=True)
class Syllabus:
    """What every state is asked: the format that suits the base, and the ids of the questions it knows."""

    format: Format
    known: Mapping[Split, Mapping[Part, frozenset[str]]]

    def to_json(self) -> dict:
        return {"format": self.format,
                "known": {s: {p: sorted(ids) for p, ids in parts.items()} for s, parts in self.known.items()}}

    @classmethod
    def from_json(cls, row: Mapping) -> Syllabus:
        return cls(row["format"], {s: {p: frozenset(ids) for p, ids in parts.items()} for s, parts in row["known"].items()})


@dataclass(frozen=True)
class Examiner:
    """Asks one model about one pack."""

    loaded: LoadedModel
    pack: ConceptPack
    progress: Progress
    formats: tuple[Format, ...] = field(default=("answer", "letter"))

    def syllabus(self) -> Syllabus:
        """Decide on format and known questions, from presentations that are never measured with."""
        chosen = {f: ask(self.loaded, self._asked("general", "tune"), f, "choose", self.progress) for f in self.formats}
        format = better_format(chosen)

        def answers(part: Part, split: Split) -> list[Answered]:
            if (part, split) == ("general", "tune"):
                return chosen[format]
            return ask(self.loaded, self._asked(part, split), format, "choose", self.progress)

        return Syllabus(format, {split: {p: known(answers(p, split)) for p in PARTS} for split in ("tune", "test")})

    def tune(self, syllabus: Syllabus) -> Measurement:
        """The quick look that the search takes at every candidate: known questions of the tune split."""
        return Measurement(answers={p: self._ask(self._looked_at(p, syllabus), syllabus) for p in PARTS},
                           mass=self._mass("tune"),
                           losses=neutral_loss(self.loaded, self.pack.neutral_part("tune"), self.progress))

    def unseen(self, syllabus: Syllabus) -> ConceptPack:
        """The pack without the questions that `tune` asks: what a candidate may be fitted on, so that none is judged by its
        own training text. (Neutral sentences are split in `ConceptPack.neutral_part`.)"""
        taken = {p: {q.id for q in (*self._looked_at(p, syllabus), *self._health(p, "tune"))} for p in PARTS}
        return replace(self.pack, **{_FIELDS[p]: tuple(q for q in getattr(self.pack, _FIELDS[p])
                                                       if q.split != "tune" or q.id not in taken[p]) for p in PARTS})

    def asked(self, syllabus: Syllabus) -> tuple[dict[Part, list[Answered]], dict[Part, list[float]]]:
        """Every question of the test split as it was answered, and the mass on offered letters."""
        return {p: self._ask(self._asked(p, "test"), syllabus) for p in PARTS}, self._mass("test")

    def _asked(self, part: Part, split: Split) -> tuple[Question, ...]:
        return self.pack.asked(_FIELDS[part], split)

    def _looked_at(self, part: Part, syllabus: Syllabus) -> tuple[Question, ...]:
        questions = self._asked(part, "tune")
        known = tuple(q for q in questions if q.id in syllabus.known["tune"][part])
        return known[: most_looked_at(len(questions))]

    def _health(self, part: Part, split: Split) -> tuple[Question, ...]:
        questions = self._asked(part, split)
        most = min(HEALTH_QUESTIONS["tune"], most_looked_at(len(questions))) if split == "tune" else HEALTH_QUESTIONS["test"]
        return questions[:most]

    def _ask(self, questions: Sequence[Question], syllabus: Syllabus) -> list[Answered]:
        return ask(self.loaded, questions, syllabus.format, "measure", self.progress) if questions else []

    def _mass(self, split: Split) -> dict[Part, list[float]]:
        return {p: letter_mass(self.loaded, self._health(p, split)) for p in PARTS}


def most_looked_at(questions: int) -> int:
    """How many of a part's tune questions the search asks at most; the others are left for fitting."""
    return min(TUNE_QUESTIONS, (questions + 1) // 2)


def known_values(measured: Measurement, part: Part, ids: frozenset[str], what: Literal["accuracy", "probability"]
                 ) -> list[float]:
    """Per-question values of the known questions of a part, in the pack's order."""
    return [getattr(a, what) for a in measured.answers.get(part, ()) if a.id in ids]
