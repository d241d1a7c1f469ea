"""One concept on one model, piece by piece: what EMBER, RMU and both take away, and what relearning brings back.

Each piece is a small JSON file that is kept in the repository, so the table grows from one run to the next and a piece is never
measured twice. What is too large to keep (edits, factorizations) lies in a work folder, and is made again from the kept settings
where it is missing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ember_hub.concepts import labels, registry
from ember_hub.concepts.pack import ConceptPack
from ember_hub.edits import store
from ember_hub.edits.apply import applied
from ember_hub.edits.controls import random_rows
from ember_hub.edits.edit import Edit, LowRankRows
from ember_hub.errors import ConfigError
from ember_hub.evaluation.attacks.relearning import RelearnLora, RelearnLoraStrong, RelearnPaper, Training
from ember_hub.evaluation.evaluations.questions import NeutralText, Questions
from ember_hub.evaluation.examination import Examiner, Measurement, Part, Syllabus
from ember_hub.evaluation.language import Predictions, predictions
from ember_hub.evaluation.presentation import pose
from ember_hub.evaluation.reading import Measured
from ember_hub.evaluation.subject import Subject
from ember_hub.features import factorization
from ember_hub.features.coverage import coverage
from ember_hub.features.selection import ConceptRows, choose
from ember_hub.features.variants import adopt
from ember_hub.methods.rmu import Rmu
from ember_hub.publish.export import as_stored
from ember_hub.settings import EmberSettings, SearchSettings
from ember_hub.source.load import LoadedModel
from ember_hub.tuning import Search
from tests.benchmarks.evidence.clock import Clock

BASE, EMBER, RMU, BOTH, RANDOM = ARMS = ("base", "ember", "rmu", "ember+rmu", "random+rmu")
LEVELS: dict[str, Training] = {"lora": RelearnLora(), "strong": RelearnLoraStrong(), "published": RelearnPaper()}
SEED = 42


@dataclass(frozen=True)
class Study:
    """One concept on one model.

    kept: folder of the pieces, in the repository. work: folder for what is large.
    fixed_strength, fixed_settings: of the edit and of RMU, where no search shall choose them.
    search_after_ember: whether RMU's settings are searched on the edited model. Keep such pieces under another name.
    seed: of RMU, of the random edit and of relearning. Another than the usual one shares the rows and settings of the usual.
    """

    loaded: LoadedModel
    folder: Path
    pack: ConceptPack
    kept: Path
    work: Path
    trials: int
    clock: Clock
    fixed_strength: float | None = None
    fixed_settings: Mapping[str, float] | None = None
    search_after_ember: bool = False
    seed: int = SEED

    def pieces(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Every piece by name, in the order in which they need one another; with another seed, those that training decides."""
        if self.seed != SEED:
            return {f"{name}-{arm}": piece for arm in (BOTH, RMU, RANDOM) for name, piece in (
                ("state", partial(self._state, arm)), ("relearned-lora", partial(self._relearned, arm, "lora")))}
        pieces: dict[str, Callable[[], dict[str, Any]]] = {"base": self._base, "rows": self._rows, "strength": self._strength,
                                                           "settings": self._settings}
        # The claim to be tested first: both arms of it, before and after every level of relearning. Then the controls.
        for states, relearned in (((BASE, EMBER, RMU, BOTH), (BOTH, RMU)), ((RANDOM,), (BASE, RANDOM, EMBER))):
            pieces |= {f"state-{arm}": partial(self._state, arm) for arm in states}
            pieces |= {f"relearned-{level}-{arm}": partial(self._relearned, arm, level) for level in LEVELS for arm in relearned}
        return pieces

    def run(self, only: str = "") -> None:
        """Measure the pieces that are missing. only: a regular expression that is found in their names."""
        self._require_same()
        for name, measure in self.pieces().items():
            if re.search(only, name) and not self._path(name).is_file():
                with self.clock.piece(f"{self.pack.name} {name}, seed {self.seed}") as lap:
                    found = measure()
                self._keep(name, found | {"seconds": lap.seconds})

    def _require_same(self) -> None:
        """Pieces that were made otherwise cannot stand in one table with these."""
        path, now = self._path("about"), _short(self._about())
        then = self.read("about") if path.is_file() else now
        if changed := [key for key, value in now.items() if then.get(key) != value]:
            raise ConfigError(f"the pieces in {self.kept} were measured with another {' and '.join(changed)}",
                              hint="give the same, or another --name for another folder")
        self._keep("about", now | {"seconds": 0.0})

    def _about(self) -> dict[str, Any]:
        """Everything besides the model that decides the pieces."""
        general = json.dumps([asdict(q) for q in self.pack.general])
        return {"concept": self.pack.sha256, "general": hashlib.sha256(general.encode()).hexdigest(), "trials": self.trials,
                "strength": self.fixed_strength, "rmu": dict(self.fixed_settings) if self.fixed_settings else None,
                "after_ember": self.search_after_ember, "dtype": str(self.loaded.dtype)}

    def read(self, name: str) -> dict[str, Any]:
        """Raises:
        ConfigError: that piece was not measured.
        """
        path = self._path(name)
        if not path.is_file():
            raise ConfigError(f"{path} is needed first", hint="measure it too: leave out --only, or widen it")
        return json.loads(path.read_text(encoding="utf-8"))

    def _path(self, name: str) -> Path:
        of_seed = self.seed != SEED and name.startswith(("state-", "relearned-"))
        return (self.kept / f"seed-{self.seed}" if of_seed else self.kept) / f"{name}.json"

    def _keep(self, name: str, value: dict[str, Any]) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(_short(value), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @cached_property
    def examiner(self) -> Examiner:
        return Examiner(self.loaded, self.pack, self.clock)

    @cached_property
    def syllabus(self) -> Syllabus:
        return Syllabus.from_json(self.read("base")["syllabus"])

    @cached_property
    def base_predictions(self) -> Predictions:
        return predictions(self.loaded, self.pack.neutral_part("test"))

    @cached_property
    def search(self) -> Search:
        tune = Measurement.from_json(self.read("base")["tune"])
        return Search(self.examiner, self.syllabus, tune, SearchSettings(trials=self.trials), self.clock)

    def _base(self) -> dict[str, Any]:
        syllabus = self.examiner.syllabus()
        return {"syllabus": syllabus.to_json(), "tune": self.examiner.tune(syllabus).to_json()}

    def _rows(self) -> dict[str, Any]:
        rows, found = self._selected()
        return {"coverage": asdict(coverage(self.pack, rows.token_ids, found, self.loaded.tokenizer)),
                "tokens": [t.text for t in rows.evidence.tokens if t.accepted],
                "reached": sorted(self._reached(rows)),
                "features": [{"share": f.share, "top": f.top_tokens} for f in rows.evidence.features if f.kept]}

    def _selected(self) -> tuple[ConceptRows, labels.TokenLabels]:
        tokenizer, embedding = self.loaded.tokenizer, self.loaded.model.get_input_embeddings().weight.detach()
        found = labels.build(self.pack, tokenizer, registry.on_other_topics(self.pack))
        path = self._large("rows")
        if not path.is_file():
            factors = factorization.fit(embedding[found.token_ids], found)
            chosen = choose(factors, found, embedding[found.token_ids], tokenizer)
            adopt(chosen, embedding.__getitem__, found, factors, tokenizer).save(path)
        return ConceptRows.load(path), found

    def _reached(self, rows: ConceptRows) -> set[str]:
        """Ids of the test questions with an edited token in them or in their options: EMBER changes no other's answer."""
        edited = set(rows.token_ids.tolist())
        posed = pose(self.pack.asked("questions", "test"), self.syllabus.format, "measure", self.loaded.tokenizer)
        return {p.question.id for p in posed if any(edited.intersection(text.ids) for text in p.texts)}

    def _strength(self) -> dict[str, Any]:
        if self.fixed_strength is not None:
            return {"strength": self.fixed_strength, "tried": []}
        strength, tried = self.search.strength(self._ember(1.0), EmberSettings().strengths)
        return {"strength": strength, "tried": [c.to_json() for c in tried]}

    def _ember(self, strength: float) -> Edit:
        rows, _ = self._selected()
        return Edit({self.loaded.anatomy.embedding: LowRankRows(rows.token_ids, rows.G, rows.F)}).scaled(strength)

    def _settings(self) -> dict[str, Any]:
        """RMU's settings, searched without EMBER and used with it too: in doubt the baseline has the advantage.

        Or, if so told, searched on the edited model, as an erasure does it: then EMBER has it.
        """
        if self.fixed_settings is not None:
            return {"settings": Rmu(**self.fixed_settings).model_dump(), "passed": None, "tried": []}
        rows = self._ember(self.read("strength")["strength"]) if self.search_after_ember else Edit.none()
        with applied(self.loaded.model, rows):
            prepared = Rmu().prepare(self.loaded, self.examiner.unseen(self.syllabus), SEED, self.clock)

        def fit(method: Rmu) -> Edit:
            with applied(self.loaded.model, rows):
                return rows.then(method.fit(self.loaded, prepared, SEED, self.clock))

        method, tried = self.search.method(Rmu, {}, fit, self._large("rmu.journal", ".jsonl"), SEED)
        return {"settings": method.model_dump(), "passed": any(c.passed for c in tried), "tried": [c.to_json() for c in tried]}

    def _state(self, arm: str) -> dict[str, Any]:
        subject = replace(self._subject(arm), pack=self._known())
        found = [instrument.measure(subject) for instrument in (Questions(), NeutralText())]
        return Measured([reading for measured in found for reading in measured.readings]).to_json()

    def _relearned(self, arm: str, level: str) -> dict[str, Any]:
        return LEVELS[level].measure(self._subject(arm)).to_json()

    def _subject(self, arm: str) -> Subject:
        return Subject(self.loaded, self.edit(arm), self.pack, self.syllabus, self.base_predictions, (), self.seed, self.clock)

    def _known(self) -> ConceptPack:
        """The pack with the test questions that the base knows alone: the others, two thirds of all, say nothing of erasure."""
        known = self.syllabus.known["test"]
        parts: dict[Part, str] = {"concept": "questions", "near_domain": "near_domain", "general": "general"}
        return replace(self.pack, **{name: tuple(q for q in getattr(self.pack, name) if q.split != "test" or q.id in known[part])
                                     for part, name in parts.items()})

    def edit(self, arm: str) -> Edit:
        """The edit of one arm, as a checkpoint can hold it; fitted again from the kept settings where the file is gone."""
        if arm == BASE:
            return Edit.none()
        ember = self._ember(self.read("strength")["strength"] or 0.0)
        if arm == EMBER:
            return as_stored(self.folder, ember)
        made_with = json.dumps([self.read("strength")["strength"], self.read("settings")["settings"],
                                *([self.seed] if self.seed != SEED else [])])
        path = self._large(f"edit-{arm}-{hashlib.sha256(made_with.encode()).hexdigest()[:8]}")
        if not path.is_file():
            rows = {RMU: Edit.none(), BOTH: ember, RANDOM: self._random(ember)}[arm]
            method = Rmu(**self.read("settings")["settings"])
            with applied(self.loaded.model, rows):
                prepared = method.prepare(self.loaded, self.pack, self.seed, self.clock)
                store.save(rows.then(method.fit(self.loaded, prepared, self.seed, self.clock)), path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        return as_stored(self.folder, store.load(path))

    def _random(self, ember: Edit) -> Edit:
        return random_rows(ember, {name: self.loaded.model.get_parameter(name) for name in ember.changes}, self.seed)

    def _large(self, name: str, ending: str = ".safetensors") -> Path:
        made_with = hashlib.sha256(json.dumps(self._about()).encode()).hexdigest()[:8]
        folder = self.work / self.kept.parent.name / f"{self.kept.name}-{made_with}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}{ending}"


def with_general(pack: ConceptPack, questions: tuple) -> ConceptPack:
    """The pack with other general-knowledge questions."""
    return replace(pack, general=questions)


def _short(value: Any) -> Any:
    """Numbers to five digits: the pieces live in the repository."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _short(v) for key, v in value.items()}
    return [_short(v) for v in value] if isinstance(value, list | tuple) else value
