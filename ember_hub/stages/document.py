"""The report as other programs read it: composed from the run folder alone, so that it can be made again at any time."""

from __future__ import annotations

import json
import platform
import shlex
from importlib.metadata import version
from typing import Any

from ember_hub import __version__
from ember_hub.evaluation import report as reports
from ember_hub.evaluation.examination import PARTS, Measurement
from ember_hub.settings import Settings
from ember_hub.stages.embed import SELECTION, TUNING, read_ember
from ember_hub.stages.workshop import EMBER_ONLY, Workshop

REPORT = "reports/report.json"
SCHEMA = 1


def compose(shop: Workshop, found: reports.Evidence, files: dict[str, Any]) -> dict[str, Any]:
    """The whole report; its schema is the contract that card, table and other programs read."""
    verdict = reports.verdict(found)
    recovered = reports.recovered(found)
    report: dict[str, Any] = {
        "schema": SCHEMA, "version": __version__, "command": command(shop), "seed": shop.settings.seed,
        "model": _model(shop), "concept": _concept(shop), "methods": _methods(shop), "ember": read_ember(shop),
        "format": found.syllabus.format, "known": {part: _known(shop, part) for part in PARTS},
        "scores": [score.to_json() for score in reports.scores(found)],
        **{key: _rounded(value) for key, value in verdict.to_json().items()},
        "ember_alone": _ember_alone(found),
        "recovered": _rounded(recovered[0]) if recovered else None,
        "recovered_interval": [_rounded(v) for v in recovered[1]] if recovered else None,
        "regained": reports.regained(found), "curves": reports.curves(found),
        "warnings": reports.warnings(found), "seconds": shop.run.seconds(),
        "environment": {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
                        "torch": version("torch"), "transformers": version("transformers"), "ember_hub": __version__},
        "out": files,
    }
    return report | {"gates": reports.gate_rows(shop.settings.gates, report)}


def samples(shop: Workshop, measured: Measurement) -> list[dict[str, Any]]:
    """How one model state answered each test question: the evidence behind its accuracies."""
    asked = {q.id: q for part in ("questions", "near_domain", "general") for q in shop.pack.asked(part, "test")}
    return [{"id": a.id, "part": part, "known": a.id in shop.syllabus.known["test"][part], "question": asked[a.id].question,
             "answer": asked[a.id].answer, "chosen": [asked[a.id].options[i] for i in a.choices],
             "accuracy": a.accuracy, "probability": round(a.probability, 4)}
            for part in PARTS for a in measured.answers[part]]


def command(shop: Workshop) -> str:
    """The command that makes this run again, with names instead of this machine's paths."""
    settings, defaults = shop.settings, {name: field.default for name, field in Settings.model_fields.items()}
    words = ["ember-hub", "erase", shop.base.repo_id or shop.base.name, "--concept", shop.pack.name]
    if shop.base.repo_id and shop.base.source_kind == "hub" and shop.base.commit:
        words[2] += f"@{shop.base.commit}"
    words += [w for name in settings.methods or ("none",) for w in ("--method", name)]
    words += ["--as", settings.publish.form, "--seed", str(settings.seed)] + (["--no-ember"] if not settings.ember.enabled else [])
    for section in ("ember", "features", "search", "verify"):
        own, usual = getattr(settings, section).model_dump(mode="json"), defaults[section].model_dump(mode="json")
        words += [w for key, value in own.items() if value != usual[key] and key != "enabled"
                  for w in ("--set", f"{section}.{key}={json.dumps(value)}")]
    words += [w for name, fixed in settings.method_settings.items() for key, value in fixed.items()
              for w in ("--set", f"{name}.{key}={json.dumps(value)}")]
    return shlex.join(words)


def _ember_alone(found: reports.Evidence) -> dict[str, float | None] | None:
    """Verdict of the embedding edit without the other methods: what a patch can claim."""
    if EMBER_ONLY not in found.arms:
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
        rows.append({"name": "ember", "title": "EMBER (embedding erasure)", "reference": "arXiv 2606.03695",
                     "settings": shop.settings.ember.model_dump(mode="json", exclude={"enabled"}) | chosen})
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
