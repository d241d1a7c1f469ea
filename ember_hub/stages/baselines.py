"""The methods after the embedding edit, and, with the settings found there, without it and after a random one."""

from __future__ import annotations

from typing import Any

from ember_hub.edits.controls import random_rows
from ember_hub.edits.edit import Edit
from ember_hub.errors import EmptyEdit
from ember_hub.methods.base import Method
from ember_hub.publish.export import require_names
from ember_hub.run import digest
from ember_hub.stages.workshop import RANDOM_EDIT, Workshop
from ember_hub.tuning import Candidate, Search


def search(shop: Workshop) -> Search:
    """The search of this run, on the tune split, under its gates."""
    return Search(shop.examiner(), shop.syllabus, shop.base_on_tune(), shop.settings.search, shop.progress)


def fit_methods(shop: Workshop) -> None:
    """Every method in turn, on the model that the edits before it leave."""
    for index, name in enumerate(shop.settings.methods):
        shop.run.stage(f"method-{index + 1}", shop.stages_before_method(index),
                       (shop.method_edit(index), _tuning_file(index, name)), lambda i=index, n=name: _fit_method(shop, i, n))
        best = shop.run.read_json(_tuning_file(index, name))
        shop.say(name, f"{_brief(best['chosen'])} · efficacy {best['verdict']['efficacy'] or 0:.2f}, specificity "
                       f"{best['verdict']['specificity'] or 0:.2f}, coherence {best['verdict']['coherence'] or 0:.2f} (tune) · "
                       f"{shop.run.folder / _tuning_file(index, name)}")


def fit_controls(shop: Workshop) -> None:
    """What the methods do without EMBER, and after a random edit of equal size."""
    ember = shop.ember_edit()
    if not ember.changes:
        return
    count = len(shop.settings.methods)

    def work() -> None:
        embedding = {name: shop.loaded.parameter(name) for name in ember.changes}
        shop.keep_edit(RANDOM_EDIT, random_rows(ember, embedding, shop.settings.seed))
        for prefix, first in (("control-only-", Edit.none()), ("control-random-", shop.edit(RANDOM_EDIT))):
            so_far = first
            for index, name in enumerate(shop.settings.methods):
                chosen = shop.run.read_json(_tuning_file(index, name))["settings"]
                edit = _fit_on(shop, so_far, shop.methods[name](**chosen))
                shop.keep_edit(shop.method_edit(index, prefix), edit)
                so_far = so_far.then(edit)

    files = tuple(shop.method_edit(i, prefix) for prefix in ("control-only-", "control-random-") for i in range(count))
    shop.run.stage("controls", ("ember", *(f"method-{i + 1}" for i in range(count))), (RANDOM_EDIT, *files), work)


def _fit_method(shop: Workshop, index: int, name: str) -> None:
    prefix = shop.ember_edit()
    for earlier in range(index):
        prefix = prefix.then(shop.edit(shop.method_edit(earlier)))
    kind = shop.methods[name]
    fixed = dict(shop.settings.plugins.get(name, {}))
    seed = shop.settings.seed
    judging = search(shop)
    prepared: list[Any] = []

    def fit(method: Method) -> Edit:
        with shop.edited(prefix):
            if not prepared:
                prepared.append(method.prepare(shop.loaded, judging.examiner.unseen(shop.syllabus), seed, shop.progress))
            found = prefix.then(method.fit(shop.loaded, prepared[0], seed, shop.progress))
        # After the first of the search, not after the last: what cannot be written needs no tuning.
        require_names(shop.base.folder, found)
        return found

    # Points of a search on another edit say nothing about this one.
    earlier = digest(shop.run.inputs(shop.stages_before_method(index)))
    journal = shop.run.path(f"reports/tuning-{index + 1}-{name}-{earlier}.journal.jsonl")
    method, tried = judging.method(kind, fixed, fit, journal, seed)
    best = max(tried, key=lambda c: c.merit)
    _require_passing(best, name)
    shop.keep_edit(shop.method_edit(index), _fit_on(shop, prefix, method))
    shop.run.write_json(_tuning_file(index, name), {
        "chosen": best.settings, "settings": method.model_dump(), "verdict": best.verdict.to_json(),
        "tried": [c.to_json() for c in tried]})


def _fit_on(shop: Workshop, prefix: Edit, method: Method) -> Edit:
    with shop.edited(prefix):
        prepared = method.prepare(shop.loaded, shop.pack, shop.settings.seed, shop.progress)
        return method.fit(shop.loaded, prepared, shop.settings.seed, shop.progress)


def _require_passing(best: Candidate, name: str) -> None:
    if not best.passed:
        v = best.verdict
        raise EmptyEdit(f"no setting of {name} passes the gates on the tune split (best: specificity {v.specificity or 0:.2f}, "
                        f"coherence {v.coherence or 0:.2f})",
                        hint="try more with --set search.trials=20, or accept more damage with --set search.specificity=0.7")


def _tuning_file(index: int, name: str) -> str:
    return f"reports/tuning-{index + 1}-{name}.json"


def _brief(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items())
