"""The report as other programs read it: composed from the run folder alone, so that it can be made again at any time."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from ember_hub import __version__
from ember_hub.evaluation import report as reports
from ember_hub.evaluation.examination import PARTS
from ember_hub.stages.embed import SELECTED, read_ember
from ember_hub.stages.verify import evidence
from ember_hub.stages.workshop import Workshop

REPORT = "reports/report.json"
SCHEMA = 1


def compose(shop: Workshop, files: dict[str, Any]) -> dict[str, Any]:
    """The whole report; its schema is the contract that card, table and other programs read."""
    found = evidence(shop)
    verdict = reports.verdict(found)
    recovered = reports.recovered(found)
    report: dict[str, Any] = {
        "schema": SCHEMA, "version": __version__, "command": shop.command, "seed": shop.settings.seed,
        "model": _model(shop), "concept": _concept(shop), "methods": _methods(shop), "ember": read_ember(shop),
        "format": found.syllabus.format, "known": {part: _known(shop, part) for part in PARTS},
        "scores": [score.to_json() for score in reports.scores(found)],
        **{key: _rounded(value) for key, value in verdict.to_json().items()},
        "recovered": _rounded(recovered[0]) if recovered else None,
        "recovered_interval": [_rounded(v) for v in recovered[1]] if recovered else None,
        "regained": reports.regained(found), "curves": reports.curves(found),
        "warnings": reports.warnings(found), "seconds": shop.run.seconds(),
        "environment": {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
                        "torch": version("torch"), "transformers": version("transformers"), "ember_hub": __version__},
        "out": files,
    }
    return report | {"gates": reports.gate_rows(shop.settings.gates, report)}


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
        chosen = shop.run.read_json(SELECTED)["strength"] if shop.run.is_done("ember") else None
        rows.append({"name": "ember", "title": "EMBER (embedding erasure)", "reference": "arXiv 2606.03695",
                     "settings": shop.settings.ember.model_dump(mode="json", exclude={"enabled"}) | {"strength": chosen}})
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
