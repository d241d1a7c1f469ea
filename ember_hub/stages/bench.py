"""Tasks of lm-evaluation-harness on the base and on what was written or published, beside our own evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ember_hub.evaluation.evidence import BASE, EDITED
from ember_hub.evaluation.harness import run_harness
from ember_hub.stages.workshop import Workshop

BENCH = "reports/bench.json"


def run_bench(shop: Workshop, after: str) -> None:
    """Run the tasks that the settings ask for, in processes of their own.

    Args:
        after: the stage that left what is examined.
    """
    wanted = shop.settings.verify
    if not wanted.bench:
        return

    def work() -> None:
        scores = [score.to_json() for stage, model, patch in _states(shop) for score in run_harness(
            model, patch, wanted.bench, stage=stage, output=shop.run.path("reports/bench"), progress=shop.progress,
            limit=wanted.bench_limit, include=wanted.bench_include, device=shop.settings.device, dtype=shop.settings.dtype)]
        shop.run.write_json(BENCH, scores)

    shop.run.stage("bench", (after,), (BENCH,), work, [wanted.bench, wanted.bench_limit])
    shop.say("bench", f"{', '.join(wanted.bench)} on two models · {shop.run.folder / 'reports/bench'}")


def bench_scores(shop: Workshop) -> list[dict[str, Any]]:
    """What the report says of them."""
    return shop.run.read_json(BENCH) if shop.settings.verify.bench else []


def _states(shop: Workshop) -> Iterator[tuple[str, Path, Path | None]]:
    """The name of a state, the folder to load, and the adapter to put on it."""
    yield BASE, shop.base.folder, None
    model, patch = shop.written()
    yield EDITED, model or shop.base.folder, None if model else patch
