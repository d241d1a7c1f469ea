"""Tasks of lm-evaluation-harness on the base and on what was written or published, beside our own evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ember_hub.evaluation.evidence import BASE, EDITED, EMBER_ONLY, stage_name
from ember_hub.evaluation.harness import Tasks, run_harness
from ember_hub.stages.workshop import Workshop

BENCH = "reports/bench"


def run_bench(shop: Workshop, after: str) -> None:
    """Run the tasks that the settings ask for, in processes of their own.

    Args:
        after: the stage that left what is examined.
    """
    wanted = shop.settings.verify
    if not wanted.bench:
        return

    for state, model, patch in _states(shop):
        file = _file(state)

        def work(state=state, model=model, patch=patch, file=file) -> None:
            scores = run_harness(model, patch, _tasks(shop), stage=stage_name(state), output=shop.run.path(BENCH),
                                 progress=shop.progress)
            shop.run.write_json(file, [score.to_json() for score in scores])

        needed = "before" if state == BASE else after
        shop.run.stage(f"bench-{state}", (needed,), (file,), work, [wanted.bench, wanted.bench_limit])
    shop.say("bench", f"{', '.join(wanted.bench)} on two models · {shop.run.folder / BENCH}")


def bench_scores(shop: Workshop) -> list[dict[str, Any]]:
    """What the report says of them."""
    if not shop.settings.verify.bench:
        return []
    return [score for state, _, _ in _states(shop) for score in shop.run.read_json(_file(state))]


def _tasks(shop: Workshop) -> Tasks:
    settings, wanted = shop.settings, shop.settings.verify
    return Tasks(wanted.bench, wanted.bench_limit, wanted.bench_include, settings.device, settings.dtype,
                 settings.trust_remote_code, settings.loading.device_map is not None)


def _states(shop: Workshop) -> Iterator[tuple[str, Path, Path | None]]:
    """The name of a state, the folder to load, and the adapter to put on it."""
    yield BASE, shop.base.folder, None
    model, patch = shop.written()
    # A patch beside no model carries the embedding edit, whatever else was fitted and measured.
    is_part = model is None and bool(shop.settings.methods)
    yield EMBER_ONLY if is_part else EDITED, model or shop.base.folder, None if model else patch


def _file(state: str) -> str:
    return f"{BENCH}/{state}.json"
