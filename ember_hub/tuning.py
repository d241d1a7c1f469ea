"""The search for strengths and settings. It sees the tune split only.

A candidate is judged by what is left of the base's knowledge on questions that the base knows: efficacy, specificity and
coherence from continuous probabilities. A candidate that fails a gate is out, however much it erases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.edits.apply import applied
from ember_hub.edits.edit import Edit
from ember_hub.evaluation.examination import PARTS, Examiner, Measurement, Part, Syllabus, known_values
from ember_hub.evaluation.verdict import Verdict, coherence, harmonic_mean, kept
from ember_hub.methods.base import Method
from ember_hub.progress import Progress
from ember_hub.settings import SearchSettings

TIE = 0.01
"""Verdicts closer than this are a tie, which the smaller strength wins."""


@dataclass(frozen=True)
class Candidate:
    """One point of a search and how it fared on the tune split."""

    settings: dict[str, Any]
    verdict: Verdict
    passed: bool

    @property
    def merit(self) -> float:
        """What the search maximizes among those that pass; those that fail rank below all, the least bad first."""
        v = self.verdict
        if not self.passed:
            return min(v.specificity or 0.0, v.coherence or 0.0) - 1.0
        return v.harmonic or 0.0

    def to_json(self) -> dict:
        return asdict(self) | {"merit": self.merit}


def judge(measured: Measurement, base: Measurement, syllabus: Syllabus) -> Verdict:
    """Verdict of a model state on the tune split, from probabilities of the right answers."""
    def share(part: Part) -> float | None:
        ids = syllabus.known["tune"][part]
        now, then = (known_values(m, part, ids, "probability") for m in (measured, base))
        chances = [a.chance for a in base.answers[part]]
        return kept(float(np.mean(now)), float(np.mean(then)), float(np.mean(chances))) if now else None

    concept, near, general = (share(part) for part in PARTS)
    others = [s for s in (near, general) if s is not None]
    return Verdict(
        efficacy=None if concept is None else 1 - concept,
        specificity=harmonic_mean(others) if others else None,
        coherence=coherence(float(np.mean(measured.losses)), float(np.mean(base.losses)), _mass(measured), _mass(base)),
    )


def _mass(measured: Measurement) -> float:
    return float(np.mean([m for part in PARTS for m in measured.mass[part]]))


@dataclass(frozen=True)
class Search:
    """The search of one run: who examines, against what, under which gates."""

    examiner: Examiner
    syllabus: Syllabus
    base: Measurement
    gates: SearchSettings
    progress: Progress

    def candidate(self, settings: dict[str, Any], edit: Edit) -> Candidate:
        """Measure one edit on the tune split; the model is as it was afterwards."""
        with applied(self.examiner.loaded.model, edit):
            verdict = judge(self.examiner.tune(self.syllabus), self.base, self.syllabus)
        passed = (verdict.specificity or 0.0) >= self.gates.specificity and (verdict.coherence or 0.0) >= self.gates.coherence
        return Candidate(settings, verdict, passed)

    def strength(self, edit: Edit, strengths: Sequence[float]) -> tuple[float, list[Candidate]]:
        """The best strength δ of an embedding edit, ties to the smaller; 0 when none passes the gates."""
        tried = []
        with self.progress.steps("choosing the strength", len(strengths)) as advance:
            for strength in sorted(strengths):
                tried.append(self.candidate({"strength": strength}, edit.scaled(strength)))
                advance(1)
        passing = [c for c in tried if c.passed]
        if not passing:
            return 0.0, tried
        best = max(c.merit for c in passing)
        return next(c.settings["strength"] for c in passing if c.merit >= best - TIE), tried

    def method(self, kind: type[Method], fixed: dict[str, Any], fit: Callable[[Method], Edit], journal: Path, seed: int
               ) -> tuple[Method, list[Candidate]]:
        """Search a method's settings with a tree-structured Parzen estimator; resumes from the journal file."""
        study = _study(journal, seed)
        space = {key: bounds for key, bounds in kind.search_space().items() if key not in fixed}
        defaults = kind(**fixed)
        if not _begun(study):
            study.enqueue_trial({key: getattr(defaults, key) for key in space})
        with self.progress.steps(f"searching {kind.name}", self.gates.trials) as advance:
            advance(_finished(study))
            while _finished(study) < self.gates.trials:
                trial = study.ask()
                chosen = {key: trial.suggest_float(key, *bounds, log=True) for key, bounds in space.items()}
                candidate = self.candidate(chosen, fit(kind(**fixed, **chosen)))
                trial.set_user_attr("verdict", candidate.verdict.to_json())
                trial.set_user_attr("passed", candidate.passed)
                study.tell(trial, candidate.merit)
                advance(1)
        tried = [_candidate(trial) for trial in study.trials if trial.value is not None]
        best = max(tried, key=lambda c: c.merit)
        return kind(**fixed, **best.settings), tried


def _study(journal: Path, seed: int):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
    # Seeded by what is already known, so that a resumed search does not repeat the points of its beginning.
    study.sampler = optuna.samplers.TPESampler(seed=seed + _finished(study), n_startup_trials=3)
    return study


def _begun(study) -> bool:
    """Whether a trial was finished or waits; one that was interrupted counts for nothing, the defaults' own among them."""
    from optuna.trial import TrialState

    return any(trial.value is not None or trial.state == TrialState.WAITING for trial in study.trials)


def _finished(study) -> int:
    return sum(trial.value is not None for trial in study.trials)


def _candidate(trial) -> Candidate:
    verdict = trial.user_attrs["verdict"]
    return Candidate(dict(trial.params), Verdict(verdict["efficacy"], verdict["specificity"], verdict["coherence"]),
                     trial.user_attrs["passed"])
