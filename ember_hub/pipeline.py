"""erase() and verify(): the ways through the house, one stage after the other, each leaving files in the run folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ember_hub import __version__
from ember_hub.concepts import registry as concepts
from ember_hub.concepts.check import require_fit
from ember_hub.concepts.pack import ConceptPack
from ember_hub.errors import GateFailed, UsageError
from ember_hub.evaluation import registry
from ember_hub.evaluation.base import Battery, Instrument
from ember_hub.evaluation.gates import require_gates
from ember_hub.evaluation.harness import require_tasks
from ember_hub.methods import registry as methods
from ember_hub.progress import Progress, Quiet
from ember_hub.publish.push import Form, Target
from ember_hub.publish.reproduce.comparison import Comparison, compare
from ember_hub.publish.reproduce.original import open_original
from ember_hub.run import Run, digest
from ember_hub.settings import Settings
from ember_hub.source.published import resolve_published
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import Base, resolve
from ember_hub.stages import again, baselines, deliver, embed, unmeasured
from ember_hub.stages import verify as check
from ember_hub.stages.again import Changes, settings_again
from ember_hub.stages.audit import Audit, find_difference
from ember_hub.stages.bench import run_bench
from ember_hub.stages.estimate import announce
from ember_hub.stages.plan import Intent, make_plan
from ember_hub.stages.report import write_report
from ember_hub.stages.room import require_room
from ember_hub.stages.unmeasured import Unmeasured
from ember_hub.stages.workshop import Workshop


@dataclass(frozen=True)
class Outcome:
    """What an erasure leaves: the run folder and its report."""

    folder: Path
    report: dict[str, Any]

    @property
    def model(self) -> Path | None:
        return self._existing("out/model")

    @property
    def patch(self) -> Path | None:
        return self._existing("out/patch")

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The gates whose limits are violated."""
        return [gate for gate in self.report["gates"] if not gate["passed"]]

    def require_gates(self) -> None:
        """Raises:
        GateFailed: everything is done and written, but a value is outside a limit, or was not measured.
        """
        for gate in self.failed:
            value = "not measured" if gate["value"] is None else gate["value"]
            raise GateFailed(f"{gate['name']} is {value}, the limit is {gate['limit']}",
                             hint=f"everything is in {self.folder}; see reports/report.json")

    def _existing(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_dir() else None


def erase(settings: Settings, *, progress: Progress | None = None) -> Outcome:
    """Erase one concept from one model, verify it, and write what can be published.

    A run that was interrupted continues where it was; a finished one is only read.

    A gate that fails stops the push; the caller decides what else it stops (`Outcome.require_gates`).

    Raises:
        EmberHubError: what went wrong, and what to do next; finished stages are kept.
    """
    progress = progress or Quiet()
    kinds = {name: methods.find(name) for name in settings.methods}
    if not settings.ember.enabled and not kinds:
        raise UsageError("without EMBER and without a method there is nothing to do",
                         hint="leave out --no-ember, or name a method")
    ref = ModelRef.parse(settings.model)
    settings = unmeasured.decided(settings, ref)
    instruments = _instruments(settings)
    pack = concepts.find(settings.concept)
    require_fit(pack)
    targets = _targets(settings, ref, pack, progress)
    base = resolve(ref, progress, settings.publish.base_id, with_weights=settings.needs_weights)
    progress.say("source", f"{base.name} at {(base.commit or 'unknown')[:12]}")
    kind = Workshop if settings.is_measured else Unmeasured
    with Run.open(_folder(settings, base, pack), _resolved(settings, base, pack)) as run:
        shop = kind(settings, base, pack, run, kinds, instruments, progress)
        require_room(shop)
        if isinstance(shop, Unmeasured):
            _by_rows_alone(shop)
        else:
            _by_measuring(shop)
        deliver.keep_recipe(shop)
        report = write_report(shop, run.read_json(deliver.FILES))
        deliver.write_cards(shop, report)
        outcome = Outcome(run.folder, report)
        if targets and (settings.publish.push_anyway or not outcome.failed):
            deliver.push_out(shop, targets)
    return outcome


def plan(settings: Settings, *, progress: Progress | None = None) -> dict[str, Any]:
    """Say what an erasure would change, take and cost; downloads no weights and writes nothing but the cache.

    Returns:
        The plan as `ember-hub plan --json` prints it, with a schema number.

    Raises:
        EmberHubError: what stands in the way, and what to do next.
    """
    progress = progress or Quiet()
    ref = ModelRef.parse(settings.model)
    kinds = {name: methods.find(name) for name in settings.methods}
    # What verifying would take is part of the plan, also where these settings would measure nothing.
    named = settings.verify.battery not in (None, "none")
    measuring = settings if named else settings.model_copy(update={
        "verify": settings.verify.model_copy(update={"battery": "quick"})})
    instruments = _instruments(measuring)
    pack = concepts.find(settings.concept)
    require_fit(pack)
    base = resolve(ref, progress, settings.publish.base_id, with_weights=False)
    progress.say("source", f"{base.name} at {(base.commit or 'unknown')[:12]}")
    return make_plan(Intent(settings, base, pack, instruments, kinds or methods.installed()), progress)


def _by_measuring(shop: Workshop) -> None:
    """Choose on the tune split, verify on the test split, write what was verified."""
    check.examine_base(shop)
    check.look_at_base(shop)
    embed.find_rows(shop)
    embed.choose_strength(shop)
    baselines.fit_methods(shop)
    baselines.fit_controls(shop)
    announce(shop)
    check.examine(shop)
    check.attack(shop)
    deliver.write_out(shop)
    run_bench(shop, "out")


def _by_rows_alone(shop: Unmeasured) -> None:
    """The embedding edit at a stated strength; no model is loaded."""
    unmeasured.describe_base(shop)
    embed.find_rows(shop)
    unmeasured.fix_strength(shop)
    unmeasured.write_out(shop)


def verify(settings: Settings, edited: str, *, progress: Progress | None = None) -> Outcome:
    """Audit an edited model or adapter that anybody published: `settings.model` is its base, or empty if an adapter names it.

    Raises:
        EmberHubError: what went wrong, and what to do next; finished stages are kept.
    """
    progress = progress or Quiet()
    if settings.verify.battery == "none":
        raise UsageError("an audit that measures nothing says nothing", hint="leave out --battery none")
    settings = unmeasured.decided(settings, ModelRef.parse(edited))
    instruments = _instruments(settings)
    pack = concepts.find(settings.concept)
    require_fit(pack)
    published = resolve_published(ModelRef.parse(edited), progress)
    if not (settings.model or published.base):
        raise UsageError(f"{published.name} is a full checkpoint, and its base is not named", hint="name it with --base")
    base = resolve(ModelRef.parse(settings.model or published.base or ""), progress, settings.publish.base_id)
    progress.say("source", f"{published.name} against {base.name} at {(base.commit or 'unknown')[:12]}")
    about = _resolved(settings, base, pack) | {"audited": {"name": published.name, "commit": published.identity()}}
    folder = settings.output / f"audit-{_slug(published.name)}--{_slug(pack.name)}" / digest(about)
    with Run.open(folder, about) as run:
        audit = Audit(settings, base, pack, run, {}, instruments, progress, published)
        require_room(audit)
        check.examine_base(audit)
        find_difference(audit)
        announce(audit)
        check.examine(audit)
        check.attack(audit)
        run_bench(audit, "difference")
        report = write_report(audit, {})
    return Outcome(run.folder, report)


def reproduce(text: str, changes: Changes, *, progress: Progress | None = None) -> list[Comparison]:
    """Make a published result again from its own recipe, and hold what comes out against it.

    Args:
        text: a repository `org/name[@revision]`, a published folder, or the folder of a finished run.
        changes: what is different here.

    Returns:
        One comparison for each form; `require_reproduced` turns a difference into an error.

    Raises:
        NotReproduced: what is published is not what its own list says; nothing was run.
        EmberHubError: what went wrong, and what to do next; finished stages are kept.
    """
    progress = progress or Quiet()
    originals = open_original(text, progress)
    settings = settings_again(originals[0], changes, progress)
    outcome = erase(settings, progress=progress)
    here = again.read_environment(outcome.folder, originals[0])
    return [compare(original, outcome.folder / "out" / original.form, outcome.report, here) for original in originals]


def _instruments(settings: Settings) -> tuple[Instrument, ...]:
    """The evaluations and attacks of this run; every name and setting is checked before anything is downloaded."""
    if settings.verify.bench:
        require_tasks(settings.verify.bench, settings.verify.bench_include)
    for name, fixed in settings.plugins.items():
        if name in methods.installed():
            methods.check_settings(name, fixed)
        else:
            registry.build(name, fixed)
    # Where nothing is measured, a limit may be set on whatever could be, and fails.
    asked = settings.verify.battery
    battery: Battery = "full" if asked is None or asked == "none" else asked
    chosen = registry.battery(battery, settings.plugins, only=settings.verify.only, skip=settings.verify.skip)
    require_gates(settings.gates, chosen, settings.verify.bench, registry.battery("full", settings.plugins))
    return chosen if settings.is_measured else ()


def _targets(settings: Settings, ref: ModelRef, pack: ConceptPack, progress: Progress) -> dict[Form, Target]:
    """Where the results will be pushed, checked before any work is done."""
    if not settings.publish.push:
        return {}
    publish = settings.publish
    base = publish.base_id or (ref.location if ref.kind == "hub" else None)
    if base is None and publish.form != "full":
        raise UsageError("a patch is loaded on top of its base, and this base has no name on the Hub",
                         hint="give it with --base-id org/name, or push the full model: --as full")
    return deliver.planned_targets(publish, base or ref.name, pack.name, progress)


def _folder(settings: Settings, base: Base, pack: ConceptPack) -> Path:
    name = f"{_slug(base.name)}--{_slug(pack.name)}"
    return settings.output / name / digest(_resolved(settings, base, pack))


def _resolved(settings: Settings, base: Base, pack: ConceptPack) -> dict[str, Any]:
    """Everything that decides the result."""
    return {"version": __version__, "settings": settings.identity(),
            "model": {"name": base.name, "repo_id": base.repo_id, "commit": base.commit},
            "concept": {"name": pack.name, "sha256": pack.sha256}}


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
