"""The report as other programs read it: composed from the run folder alone, so that it can be made again at any time."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from ember_hub import __version__
from ember_hub.evaluation import report as reports
from ember_hub.evaluation.base import Attack, Evaluation, Instrument
from ember_hub.evaluation.evidence import EDITED, EMBER_ONLY, Evidence, scores
from ember_hub.evaluation.examination import PARTS
from ember_hub.evaluation.gates import gate_rows
from ember_hub.evaluation.headline import recoveries, worst
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.settings import Settings
from ember_hub.stages.bench import bench_scores
from ember_hub.stages.embed import SELECTION, TUNING, read_ember
from ember_hub.stages.tokens import edited_tokens
from ember_hub.stages.verify import missing, stages_of
from ember_hub.stages.workshop import Workshop

REPORT = "reports/report.json"
SCHEMA = 2


def compose(shop: Workshop, found: Evidence, files: dict[str, Any]) -> dict[str, Any]:
    """The whole report; its schema is the contract that card, table and other programs read."""
    attacks = _attacks(shop, found)
    headline = next((row for row in attacks if row["is_worst"]), None)
    is_measured = shop.settings.is_measured
    report: dict[str, Any] = {
        "schema": SCHEMA, "version": __version__, "kind": shop.kind, "command": command(shop), "seed": shop.settings.seed,
        "model": _model(shop), "audited": shop.audited(), "concept": _concept(shop), "methods": _methods(shop),
        "ember": read_ember(shop), "tokens": edited_tokens(shop),
        "format": found.syllabus.format if is_measured else None,
        "known": {part: _known(shop, part) for part in PARTS} if is_measured else None,
        "battery": shop.settings.verify.battery, "evaluations": _evaluations(shop, found),
        "scores": [*(score.to_json() for score in scores(found)), *bench_scores(shop)], "bench": _bench(shop),
        **{key: _rounded(value) for key, value in reports.verdict(found).to_json().items()},
        "ember_alone": _ember_alone(found), "attacks": attacks,
        "recovered": headline and headline["recovered"], "recovered_interval": headline and headline["recovered_interval"],
        "worst_attack": headline and {"name": headline["name"], "title": headline["title"]},
        "regained": reports.regained(found), "curves": reports.curves(found), "layers": reports.layers(found),
        "warnings": [*_rounding(shop), *shop.remarks(), *reports.warnings(found)], "seconds": _seconds(shop),
        "environment": _environment(), "out": files,
    }
    return report | {"gates": gate_rows(shop.settings.gates, report, found)}


def _seconds(shop: Workshop) -> dict[str, float]:
    """How long the stages took when they were done; what this battery measured, together by kind."""
    taken = shop.run.seconds()
    measured = [(f"{i.kind}s", taken.pop(stage, 0.0)) for i in shop.instruments for stage in stages_of(shop, i)]
    sums = {kind: round(sum(s for k, s in measured if k == kind), 2) for kind in dict.fromkeys(kind for kind, _ in measured)}
    # What is left of another battery in the same folder is not this report's.
    return {name: s for name, s in taken.items() if not name.startswith(("state-", "attack-"))} | sums


def _rounding(shop: Workshop) -> list[str]:
    bits = shop.settings.loading.quantization
    return [f"everything was measured with the weights that are not edited held in {bits.removesuffix('bit')} bits; the published "
            "ones are not rounded, and may answer a little differently"] if bits else []


def _environment() -> dict[str, str]:
    return {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
            "torch": version("torch"), "transformers": version("transformers"), "ember_hub": __version__,
            "cores": str(os.cpu_count()), "gpu": _gpu()}


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _bench(shop: Workshop) -> dict[str, Any] | None:
    """Which benchmark tasks were run, and on how many questions each at most."""
    wanted = shop.settings.verify
    return {"tasks": list(wanted.bench), "limit": wanted.bench_limit} if wanted.bench else None


def _attacks(shop: Workshop, found: Evidence) -> list[dict[str, Any]]:
    """Every attack of the battery: what it brings back, on the result and on the controls."""
    kinds = {i.name: i for i in shop.instruments if isinstance(i, Attack)}
    recovered = {r.attack: r for r in recoveries(found, kinds)}
    strongest = worst(list(recovered.values()))
    rows = []
    for name, attack in kinds.items():
        r = recovered.get(name)
        states = {state: _arm(reading) for state in found.attacked.get(name, {}) if (reading := found.under(name, state))}
        rows.append(_about(shop, attack, found.attacked.get(name, {}).get(EDITED)) | {
            "arms": states, "recovered": _rounded(r.recovered) if r else None,
            "recovered_interval": [_rounded(v) for v in r.interval] if r and r.interval else None,
            "taught": _rounded(r.taught) if r else None, "hands_over": bool(r and r.hands_over),
            "restores_by_definition": attack.restores_by_definition, "is_worst": r is not None and r is strongest})
    return rows


def _arm(reading: Reading) -> dict[str, Any]:
    score = reading.score("")
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n, "chance": score.chance}


def _evaluations(shop: Workshop, found: Evidence) -> list[dict[str, Any]]:
    return [_about(shop, i, found.states[EDITED].get(i.name)) for i in shop.instruments if isinstance(i, Evaluation)]


def _about(shop: Workshop, instrument: Instrument, measured: Measured | None) -> dict[str, Any]:
    """What an instrument is, and why it was not measured if it was not."""
    reason = missing(shop, instrument)
    if reason is None and (measured is None or not measured.readings):
        reason = measured.details.get("reason", "nothing to measure") if measured else "the base knows nothing to attack"
    return {"name": instrument.name, "title": instrument.title, "reference": instrument.reference, "battery": instrument.battery,
            "reproducible": instrument.reproducible, "settings": instrument.model_dump(mode="json"), "not_measured": reason}


def command(shop: Workshop) -> str:
    """The command that makes this run again, with names instead of this machine's paths."""
    settings, base = shop.settings, shop.base.repo_id or shop.base.name
    if shop.base.repo_id and shop.base.source_kind == "hub" and shop.base.commit:
        base += f"@{shop.base.commit}"
    if audited := shop.audited():
        edited = audited["repo_id"] or audited["name"]
        edited += f"@{audited['commit']}" if audited["repo_id"] and audited["commit"] else ""
        words = ["ember-hub", "verify", edited, "--base", base, "--concept", shop.pack.name]
    else:
        words = ["ember-hub", "erase", base, "--concept", shop.pack.name]
        words += [w for name in settings.methods or ("none",) for w in ("--method", name)]
        words += ["--as", settings.publish.form] + (["--no-ember"] if not settings.ember.enabled else [])
    words += ["--battery", settings.verify.battery, "--seed", str(settings.seed)]
    words += ["--dtype", settings.dtype] if settings.dtype != "auto" else []
    words += ["--trust-remote-code"] if settings.trust_remote_code else []
    words += ["--base-id", settings.publish.base_id] if settings.publish.base_id else []
    return shlex.join([*words, *_changed(settings)])


def _changed(settings: Settings) -> Iterator[str]:
    """Every other setting that is not as it usually is."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    for section in ("ember", "features", "search", "verify", "loading"):
        own, usual = getattr(settings, section).model_dump(mode="json"), defaults[section].model_dump(mode="json")
        left_out = ("enabled", "battery", "bench_include", "offload")
        for key in (k for k, value in own.items() if value != usual[k] and k not in left_out):
            yield from ("--set", f"{section}.{key}={json.dumps(own[key])}")
    for name, fixed in settings.plugins.items():
        for key, value in fixed.items():
            yield from ("--set", f"{name}.{key}={json.dumps(value)}")


def _ember_alone(found: Evidence) -> dict[str, float | None] | None:
    """Verdict of the embedding edit without the other methods: what a patch can claim."""
    if EMBER_ONLY not in found.states:
        return None
    return {key: _rounded(value) for key, value in reports.verdict(found, EMBER_ONLY).to_json().items()}


def _model(shop: Workshop) -> dict[str, Any]:
    base, licence = shop.base, shop.base.licence
    about = shop.run.read_json("reports/before.json")["model"]
    return {"name": base.name, "repo_id": base.repo_id, "commit": base.commit, "source_kind": base.source_kind,
            "licence": {"id": licence.id, "name": licence.name, "link": licence.link, "files": list(licence.files)},
            "gated": base.gated, **about}


def _concept(shop: Workshop) -> dict[str, Any]:
    pack = shop.pack
    return {"name": pack.name, "title": pack.title, "description": pack.description, "sha256": pack.sha256,
            "licence": pack.licence, "source": pack.source}


def _methods(shop: Workshop) -> list[dict[str, Any]]:
    rows = []
    if shop.settings.ember.enabled:
        chosen = {"strength": shop.run.read_json(TUNING)["strength"], "rank": shop.run.read_json(SELECTION)["rank"]}
        idle = "untuned_strength" if shop.settings.is_measured else "strengths"
        rows.append({"name": "ember", "title": "EMBER (embedding erasure)", "reference": "arXiv 2606.03695",
                     "settings": shop.settings.ember.model_dump(mode="json", exclude={"enabled", idle}) | chosen})
    for index, name in enumerate(shop.settings.methods):
        kind = shop.methods[name]
        settings = shop.run.read_json(f"reports/tuning-{index + 1}-{name}.json")["settings"]
        rows.append({"name": name, "title": kind.title, "reference": kind.reference, "settings": settings})
    return rows


def _known(shop: Workshop, part: str) -> dict[str, int]:
    asked = shop.pack.asked("questions" if part == "concept" else part, "test")
    return {"known": len(shop.syllabus.known["test"][part]), "asked": len(asked)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
