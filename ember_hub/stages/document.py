"""The report as other programs read it: composed from the run folder alone, so that it can be made again at any time."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ember_hub import __version__
from ember_hub.evaluation import registry
from ember_hub.evaluation import report as reports
from ember_hub.evaluation.base import Attack, Evaluation, Instrument
from ember_hub.evaluation.evidence import EDITED, EMBER_ONLY, Evidence, scores
from ember_hub.evaluation.examination import PARTS
from ember_hub.evaluation.gates import gate_rows
from ember_hub.evaluation.headline import Recovery, recoveries, worst_case
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.evaluation.shares import verdict_intervals
from ember_hub.evaluation.verdict import LEFT_OUT, NO_ATTACK
from ember_hub.settings import Settings
from ember_hub.stages.bench import bench_scores
from ember_hub.stages.embed import SELECTION, TUNING, read_ember
from ember_hub.stages.tokens import edited_tokens
from ember_hub.stages.verify import missing, stages_of
from ember_hub.stages.workshop import BEFORE, Workshop

REPORT = "reports/report.json"
SCHEMA = 2


def compose(shop: Workshop, found: Evidence, files: dict[str, Any]) -> dict[str, Any]:
    """The whole report; its schema is the contract that card, table and other programs read."""
    shares = recoveries(found, {i.name: i for i in shop.instruments if isinstance(i, Attack)})
    headline = worst_case(found, shares)
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
        "intervals": _intervals(found, EDITED), "ember_alone": _ember_alone(found),
        "ember_alone_intervals": _intervals(found, EMBER_ONLY) if EMBER_ONLY in found.states else None,
        "attacks": _attacks(shop, found, shares, headline), **_worst(shop, headline),
        "regained": reports.regained(found), "curves": reports.curves(found), "layers": reports.layers(found),
        "warnings": [*_rounding(shop), *_unattacked(shop), *shop.remarks(), *reports.warnings(found)], "seconds": _seconds(shop),
        "environment": shop.run.read_json(BEFORE)["environment"], "out": files,
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


def _bench(shop: Workshop) -> dict[str, Any] | None:
    """Which benchmark tasks were run, and on how many questions each at most."""
    wanted = shop.settings.verify
    return {"tasks": list(wanted.bench), "limit": wanted.bench_limit} if wanted.bench else None


def _worst(shop: Workshop, headline: Recovery | None) -> dict[str, Any]:
    """The worst case: how much is there again, and after what."""
    if headline is None:
        return {"recovered": None, "recovered_interval": None, "worst_attack": None}
    titles = {i.name: i.title for i in shop.instruments} | {NO_ATTACK: "no attack at all"}
    return {"recovered": _rounded(headline.recovered), "recovered_interval": _bounds(headline.interval),
            "worst_attack": {"name": headline.attack, "title": titles[headline.attack]}}


def _attacks(shop: Workshop, found: Evidence, shares: Sequence[Recovery], headline: Recovery | None) -> list[dict[str, Any]]:
    """Every attack of the battery: what it brings back, on the result and on the controls."""
    by_name, rows = {r.attack: r for r in shares}, []
    for attack in (i for i in (*shop.instruments, *_left_out(shop)) if isinstance(i, Attack)):
        r, states = by_name.get(attack.name), found.attacked.get(attack.name, {})
        rows.append(_about(shop, attack, states.get(EDITED)) | {
            "arms": {state: _arm(reading) for state in states if (reading := found.under(attack.name, state))},
            "recovered": _rounded(r.recovered) if r else None, "recovered_interval": _bounds(r.interval) if r else None,
            "taught": _rounded(r.taught) if r else None, "hands_over": bool(r and r.hands_over),
            "restores_by_definition": attack.restores_by_definition, "is_worst": r is not None and r is headline})
    return rows


def _left_out(shop: Workshop) -> list[Instrument]:
    """What belongs to the battery and was not asked for."""
    wanted, chosen = shop.settings.verify, {i.name for i in shop.instruments}
    if wanted.battery in (None, "none"):
        return []
    return [i for i in registry.battery(wanted.battery, shop.settings.plugins) if i.name not in chosen]


def _unattacked(shop: Workshop) -> list[str]:
    names = [i.name for i in _left_out(shop) if isinstance(i, Attack)]
    return [f"the worst case leaves out what belongs to this battery and was not run: {', '.join(names)}"] if names else []


def _arm(reading: Reading) -> dict[str, Any]:
    score = reading.score("")
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n, "chance": score.chance}


def _evaluations(shop: Workshop, found: Evidence) -> list[dict[str, Any]]:
    return [_about(shop, i, found.states[EDITED].get(i.name))
            for i in (*shop.instruments, *_left_out(shop)) if isinstance(i, Evaluation)]


def _about(shop: Workshop, instrument: Instrument, measured: Measured | None) -> dict[str, Any]:
    """What an instrument is, and why it was not measured if it was not."""
    reason = missing(shop, instrument) if instrument in shop.instruments else LEFT_OUT
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
    about = shop.run.read_json(BEFORE)["model"]
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


def _intervals(found: Evidence, state: str) -> dict[str, list[float] | None]:
    return {name: _bounds(bounds) for name, bounds in verdict_intervals(found, state).items()}


def _bounds(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(bound, 4) for bound in interval]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
