"""erase(): the whole way through the house, one stage after the other, each leaving files in the run folder."""

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
from ember_hub.methods import registry as methods
from ember_hub.progress import Progress, Quiet
from ember_hub.publish.push import Form, Target
from ember_hub.run import Run, digest
from ember_hub.settings import Settings
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import Base, resolve
from ember_hub.stages import baselines, deliver, embed, verify
from ember_hub.stages.room import require_room
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

    def _existing(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_dir() else None


def erase(settings: Settings, *, progress: Progress | None = None) -> Outcome:
    """Erase one concept from one model, verify it, and write what can be published.

    A run that was interrupted continues where it was; a finished one is only read.

    Raises:
        EmberHubError: what went wrong, and what to do next; finished stages are kept.
        GateFailed: everything is done and written, but a measured value is outside a limit.
    """
    progress = progress or Quiet()
    kinds = {name: methods.find(name) for name in settings.methods}
    for name, fixed in settings.method_settings.items():
        methods.check_settings(name, fixed)
    if not settings.ember.enabled and not kinds:
        raise UsageError("without EMBER and without a method there is nothing to do",
                         hint="leave out --no-ember, or name a method")
    deliver.check_gates(settings.gates)
    ref = ModelRef.parse(settings.model)
    pack = concepts.find(settings.concept)
    require_fit(pack)
    targets = _targets(settings, ref, pack)
    base = resolve(ref, progress, settings.publish.base_id)
    progress.say("source", f"{base.name} at {(base.commit or 'unknown')[:12]}")
    with Run.open(_folder(settings, base, pack), _resolved(settings, base, pack)) as run:
        shop = Workshop(settings, base, pack, run, kinds, progress)
        require_room(shop)
        verify.examine_base(shop)
        embed.find_rows(shop)
        embed.choose_strength(shop)
        baselines.fit_methods(shop)
        baselines.fit_controls(shop)
        verify.examine_edited(shop)
        verify.attack(shop)
        deliver.write_out(shop)
        report = deliver.write_report(shop)
        failed = [gate for gate in report["gates"] if not gate["passed"]]
        if targets and not (failed and not settings.publish.push_anyway):
            deliver.push_out(shop, targets)
    if failed:
        first = failed[0]
        raise GateFailed(f"{first['name']} is {first['value']}, the limit is {first['limit']}",
                         hint=f"everything is in {run.folder}; see reports/report.json")
    return Outcome(run.folder, report)


def _targets(settings: Settings, ref: ModelRef, pack: ConceptPack) -> dict[Form, Target]:
    """Where the results will be pushed, checked before any work is done."""
    if not settings.publish.push:
        return {}
    publish = settings.publish
    base = publish.base_id or (ref.location if ref.kind == "hub" else None)
    if base is None and publish.form != "full":
        raise UsageError("a patch is loaded on top of its base, and this base has no name on the Hub",
                         hint="give it with --base-id org/name, or push the full model: --as full")
    return deliver.targets(publish.repo, publish.form, base or ref.name, pack.name, publish.private)


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
