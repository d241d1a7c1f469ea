"""A result that was made again, held against the published one: file by file, score by score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ember_hub.errors import NotReproduced
from ember_hub.publish.push import Form
from ember_hub.publish.reproduce import CARD, FOLDER
from ember_hub.publish.reproduce.environment import MACHINE, Difference, differences
from ember_hub.publish.reproduce.original import Original
from ember_hub.run import file_sha256

SCHEMA = 1
ROUNDING = 1e-3
"""What a score may differ where its interval has no width, in its own unit."""
_ABOUT = ("ember/", f"{FOLDER}/", ".eval_results/")
"""Told of a result: times, machine, figures. Not the result."""
_ROWS = ("rows_sha256", "base_rows_sha256")


@dataclass(frozen=True)
class ScoreDifference:
    """A score that is outside the published interval; `here` is None when it was not measured again."""

    name: str
    stage: str
    there: float
    low: float
    high: float
    here: float | None

    def __str__(self) -> str:
        found = "was not measured again" if self.here is None else f"is {self.here:.3f}"
        return f"{self.name} of {self.stage} {found}, published {self.there:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Comparison:
    """What is the same and what is not, and by which of both the verdict was reached."""

    original: str
    commit: str | None
    form: Form
    by: Literal["hash", "scores"]
    equal_files: int
    different_files: tuple[str, ...]
    compared_scores: int
    different_scores: tuple[ScoreDifference, ...]
    environment: tuple[Difference, ...]
    is_reproduced: bool

    @property
    def is_same_machine(self) -> bool:
        """Whether the machine's type is the same; versions of libraries may differ all the same."""
        return not any(d.name in MACHINE for d in self.environment)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "original": self.original, "commit": self.commit, "form": self.form,
                "reproduced": self.is_reproduced, "by": self.by, "same_machine_type": self.is_same_machine,
                "files": {"equal": self.equal_files, "different": list(self.different_files)},
                "scores": {"compared": self.compared_scores, "different": [vars(d) for d in self.different_scores]},
                "environment": [d.to_json() for d in self.environment]}

    def require_reproduced(self) -> None:
        """Raises:
        NotReproduced: naming the first difference.
        """
        if self.is_reproduced:
            return
        if self.different_files and (self.by == "hash" or not self.different_scores):
            first = f"{self.different_files[0]} is not the published file, by its SHA-256"
        else:
            first = str(self.different_scores[0])
        count = len(self.different_files) + len(self.different_scores)
        changed = ", ".join(d.name for d in self.environment)
        hint = (f"this machine differs in {changed}; install reproduce/requirements.txt, or try the same type of machine"
                if changed else "machine and versions are the same: what was published did not come out of its own recipe, "
                "unless --set changed it here")
        raise NotReproduced(f"{self.original} was not reproduced: {first}" + (f" ({count} differences)" if count > 1 else ""),
                            hint=hint)


def compare(original: Original, folder: Path, report: Mapping[str, Any], here: Mapping[str, Any]) -> Comparison:
    """Hold what was made in `folder` against the published result.

    Equal files are the same result on any machine. Where they differ, the same type of machine with the same versions should
    have made them equal; on another one the scores decide, each within the published 95 % interval.

    Args:
        folder: the model or patch that was made again.
        report: of the run that made it.
        here: the environment it was made in.
    """
    there, made = set(_results(original, original.sums)), set(_results(original, _files(folder)))
    wrong = tuple(sorted(path for path in there | made if not _is_equal(folder / path, original.sums.get(path))))
    equal = len(there | made) - len(wrong)
    scores, outside = _scores(original.report, report)
    changed = differences(original.environment, here)
    is_explained = any(d.name != "cores" for d in changed)
    has_rows = not wrong or (original.form == "patch" and _has_equal_rows(original.report, report))
    by: Literal["hash", "scores"] = "hash" if has_rows or not is_explained or not original.is_measured else "scores"
    is_same = has_rows if by == "hash" else bool(scores)
    return Comparison(original.name, original.commit, original.form, by, equal, wrong, scores, outside, changed,
                      is_same and not outside)


def _results(original: Original, paths: Iterable[str]) -> Iterator[str]:
    """Those of the files that are the result itself."""
    # Of a base without a name on the Hub, an adapter names the folder that it lay in.
    local = () if original.report["model"]["repo_id"] else ("adapter_config.json", "ember_patch.json")
    return (path for path in paths if not path.startswith(_ABOUT) and path not in (CARD, *local))


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_equal(path: Path, sha256: str | None) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _has_equal_rows(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """A patch that nobody measured is its rows: other files around them are written by libraries, whose versions may differ."""
    ours, theirs = (report["out"].get("patch") or {} for report in (here, there))
    return all(ours.get(key) == theirs.get(key) is not None for key in _ROWS)


def _scores(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[int, tuple[ScoreDifference, ...]]:
    """How many scores were compared, and those that are outside the published interval."""
    found = {(score["name"], score["stage"]): score["value"] for score in here["scores"]}
    # A judge is asked anew and answers anew; what it says is listed under the first word of the evaluation's name.
    judged = tuple(row["name"].partition("-")[0] for row in there["evaluations"] if not row["reproducible"])
    unsteady = {row["name"] for row in there["attacks"] if not row["reproducible"]}
    compared = [score for score in there["scores"] if not (judged and score["name"].startswith(judged))
                and score["stage"].rpartition(":")[2].rpartition("+")[2] not in unsteady]
    outside = []
    for score in compared:
        value = found.get((score["name"], score["stage"]))
        if value is None or not score["low"] - ROUNDING <= value <= score["high"] + ROUNDING:
            outside.append(ScoreDifference(score["name"], score["stage"], score["value"], score["low"], score["high"], value))
    return len(compared), tuple(outside)
