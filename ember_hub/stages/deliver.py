"""What leaves the house: checkpoint, patch, figure, report and cards, proven by a reload; and the push."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ember_hub.errors import GateFailed, HashMismatch
from ember_hub.evaluation.evidence import EDITED
from ember_hub.progress import Progress
from ember_hub.publish import card
from ember_hub.publish.export import export_model
from ember_hub.publish.patch import make_patch
from ember_hub.publish.push import Form, Pushed, Target, preflight, push
from ember_hub.publish.reload import ReloadProof, reload_check, write_expected
from ember_hub.run import Run, file_sha256, read_report
from ember_hub.stages.workshop import Workshop

FIGURE = "reports/figures/relearning.png"
FILES = "reports/files.json"
BASE_CARD = "reports/base-card.md"
FORMS: dict[str, tuple[Form, ...]] = {"full": ("model",), "patch": ("patch",), "both": ("model", "patch")}


def forms(shop: Workshop) -> tuple[Form, ...]:
    """What this run writes; without an embedding edit there is no patch."""
    wanted = FORMS[shop.settings.publish.form]
    return tuple(form for form in wanted if form == "model" or shop.ember_edit().changes)


def write_out(shop: Workshop) -> None:
    """The edited model and the patch, each proven against the verified model in a new process."""
    outputs = (*(f"out/{form}" for form in forms(shop)), FILES)
    shop.run.stage("out", ("before", *shop.edit_stages()), outputs, lambda: _write_out(shop))
    out = shop.run.folder / "out"
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    shop.say("out", f"{' and '.join(forms(shop))} reload to the verified model · {size / 2**20:,.0f} MiB · {out}")


def _write_out(shop: Workshop) -> None:
    edit, anatomy, run = shop.edit_of(EDITED), shop.loaded.anatomy, shop.run
    folders: dict[Form, Path] = {form: run.path(f"out/{form}") for form in forms(shop)}
    about: dict[str, Any] = {"model": None, "patch": None}
    if "model" in folders:
        proof = export_model(shop.base.folder, anatomy, edit, folders["model"], shop.progress)
        about["model"] = {"identical": len(proof.identical), "changed": list(proof.changed), "added": list(proof.added),
                          "shared_files": list(proof.shared_files)}
    if "patch" in folders:
        make_patch(shop.base, anatomy, edit, folders["patch"], left_out=shop.settings.methods, unrounded=shop.ember_edit())
        about["patch"] = {"carries": "the embedding edit only" if shop.settings.methods else "everything"}
    with run.writing("reports/probe.safetensors") as expected:
        write_expected(shop.loaded, edit, [*shop.pack.sentences[:4], *shop.pack.neutral_part("test")[:4]], expected)
        found = reload_check(folders.get("model"), folders.get("patch"), expected, shop.base.folder,
                             shop.settings.trust_remote_code, shop.progress)
    for form in folders:
        about[form] |= _measured(folders[form], form, found)
    run.write_json(FILES, about)


def _measured(folder: Path, form: Form, found: ReloadProof) -> dict[str, Any]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert getattr(found, form).is_equal, "reload_check raises otherwise"
    return {"bytes": sum(f.stat().st_size for f in files), "files": len(files),
            "reload": f"bit-equal logits on {found.sequences} probe texts in a new process ({found.dtype}, {found.device})"}


def write_cards(shop: Workshop, report: Mapping[str, Any]) -> None:
    """The card of everything that was written, with the evidence that it refers to."""
    original = shop.base.folder / "README.md"
    if original.is_file():
        shop.run.write(BASE_CARD, original.read_text(encoding="utf-8", errors="replace"))
    for form in forms(shop):
        _write_card(shop.run, report, form)


def _write_card(run: Run, report: Mapping[str, Any], form: Form, repo: str | None = None) -> None:
    """README.md and the evidence that it refers to, into the folder that will be pushed."""
    folder = f"out/{form}"
    text = card.render(report, form, target_repo=repo, base_card=base_card(run.folder))
    card.validate(text)
    run.write(f"{folder}/README.md", text)
    run.write_json(f"{folder}/ember/report.json", report)
    if report["curves"]:
        with run.writing(f"{folder}/ember/relearning.png") as partial:
            partial.write_bytes((run.folder / FIGURE).read_bytes())


def base_card(folder: Path) -> str | None:
    """The base's own card, as the run kept it."""
    path = folder / BASE_CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def push_out(shop: Workshop, targets: Mapping[Form, Target]) -> list[Pushed]:
    """Push what this run wrote to the targets that were checked before it began."""
    written = {form: target for form, target in targets.items() if form in forms(shop)}
    return list(_push(shop.run, written, shop.progress))


def push_run(folder: Path, repo: str | None, form: str, *, private: bool, anyway: bool, progress: Progress) -> list[Pushed]:
    """Push a finished run.

    Raises:
        RunNotFound: the folder holds none.
        GateFailed: a gate of the run failed, and `anyway` is false.
        PublishError: the Hub says no.
    """
    report = read_report(folder)
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    if failed and not anyway:
        raise GateFailed(f"{failed[0]['name']} is {failed[0]['value']}, the limit is {failed[0]['limit']}",
                         hint="push it all the same with --push-anyway; the card then says so first")
    there = {f for f in FORMS[form] if (folder / "out" / f).is_dir()}
    base = report["model"]["repo_id"] or report["model"]["name"]
    found = targets(repo, form, base, report["concept"]["name"], private)
    with Run.open(folder, {}) as run:
        return list(_push(run, {f: target for f, target in found.items() if f in there}, progress))


def targets(repo: str | None, form: str, base: str, concept: str, private: bool) -> dict[Form, Target]:
    """Where each form goes, checked on the Hub; when both are pushed, the patch's repository ends in `-patch`."""
    both = len(FORMS[form]) > 1
    return {f: preflight(f"{repo}-patch" if repo and both and f == "patch" else repo, base, concept, f, private)
            for f in FORMS[form]}


def _push(run: Run, targets: Mapping[Form, Target], progress: Progress) -> Iterator[Pushed]:
    report = read_report(run.folder)
    done = run.read_json("pushed.json") if (run.folder / "pushed.json").is_file() else {}
    for form, target in targets.items():
        _write_card(run, report, form, target.repo)
        pushed = push(run.folder / "out" / form, target, f"Erase {report['concept']['title']} with ember-hub", progress)
        _require_same(run.folder / "out" / form, pushed)
        done[form] = pushed.to_json()
        run.write_json("pushed.json", done)
        yield pushed


def _require_same(folder: Path, pushed: Pushed) -> None:
    for name, sha256 in pushed.files.items():
        if file_sha256(folder / os.fspath(name)) != sha256:
            raise HashMismatch(f"{name} changed while it was being pushed", hint="push again")
