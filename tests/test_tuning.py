"""The search for settings: it begins with the defaults, and an interruption costs no more than the trial that was running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ember_hub.edits.edit import Edit
from ember_hub.evaluation.verdict import Verdict
from ember_hub.methods.base import Method
from ember_hub.methods.rmu import Rmu
from ember_hub.progress import Quiet
from ember_hub.settings import SearchSettings
from ember_hub.tuning import Candidate, Search

TRIALS = 4


class Judged(Search):
    """A search in which the smallest steering is the best, and nothing is measured."""

    def candidate(self, settings: dict[str, Any], edit: Edit) -> Candidate:
        return Candidate(settings, Verdict(1 / (1 + settings["steering"]), 1.0, 1.0), passed=True)


def search(journal: Path, stop_in: int | None = None) -> list[Candidate]:
    calls = iter(range(TRIALS))

    def fit(_: Method) -> Edit:
        if next(calls) == stop_in:
            raise KeyboardInterrupt
        return Edit.none()

    judged = Judged(None, None, None, SearchSettings(trials=TRIALS), Quiet())  # type: ignore[arg-type]
    best, tried = judged.method(Rmu, {}, fit, journal, seed=0)
    assert best.steering == min(c.settings["steering"] for c in tried)
    return tried


@pytest.mark.parametrize("stop_in", [0, 1, 3])
def test_a_search_that_was_interrupted_goes_on_and_still_begins_with_the_defaults(tmp_path: Path, stop_in: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "journal", stop_in)
    tried = search(tmp_path / "journal")
    assert len(tried) == TRIALS
    assert len({c.settings["steering"] for c in tried}) == TRIALS, "nothing was tried twice"
    assert tried[0].settings == {key: getattr(Rmu(), key) for key in Rmu.search_space()}
