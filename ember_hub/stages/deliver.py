"""What leaves the house: checkpoint, patch, figure, report and cards, proven by a reload; and the push."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.errors import GateFailed, HashMismatch, PushRejected
from ember_hub.progress import Progress
from ember_hub.publish import card, reproduce
from ember_hub.publish.eval_results import eval_results
from ember_hub.publish.push import Form, Patience, Pushed, PushOptions, Source, Target, label, preflight, push
from ember_hub.publish.report.schema import read_current
from ember_hub.publish.reproduce import recipe
from ember_hub.publish.view import of_form
from ember_hub.run import Run, disk_errors, file_sha256

if TYPE_CHECKING:
    from ember_hub.publish.reload import ReloadProof
    from ember_hub.settings import PublishSettings
    from ember_hub.stages.workshop import Workshop

FIGURES = "reports/figures"
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
    # A push or a card needs none of these, nor the seconds that torch takes to come up.
    from ember_hub.evaluation.evidence import EDITED
    from ember_hub.publish.export import export_model
    from ember_hub.publish.patch import make_patch
    from ember_hub.publish.reload import reload_check, write_expected

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


def keep_recipe(shop: Workshop) -> None:
    """What makes this run again, kept while the machine that made it is the one at hand."""
    settings, base = shop.settings.model_dump(mode="json"), shop.base
    model = f"{base.repo_id}@{base.commit}" if base.source_kind == "hub" else base.name
    content, missing = recipe.recipe(settings, model, shop.pack.name), recipe.left_out(settings)
    shop.run.stage("recipe", ("out",), (reproduce.FOLDER,), lambda: recipe.write(shop.run.folder, content, missing, shop.pack),
                   [content, missing])


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
    for name in card.figures(report, form):
        with run.writing(f"{folder}/ember/{name}.png") as partial:
            partial.write_bytes(_figure(run, report, name).read_bytes())
    for path, content in eval_results(of_form(report, form)).items():
        run.write(f"{folder}/{path}", content)
    _write_recipe(run, folder)


def _write_recipe(run: Run, folder: str) -> None:
    """`reproduce/`, and last of all the hashes of everything beside it; nothing for a run that kept no recipe."""
    if not (run.folder / reproduce.FOLDER).is_dir():
        return
    place = run.path(f"{folder}/{reproduce.FOLDER}")
    with disk_errors(place):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run.folder / reproduce.FOLDER, place)
    run.write(f"{folder}/{reproduce.SUMS}", recipe.sums(run.folder / folder, lambda name: run.sha256(f"{folder}/{name}", "out")))


def _figure(run: Run, report: Mapping[str, Any], name: str) -> Path:
    """The figure as the report's stage drew it, or drawn again: it is a function of the report alone."""
    path = run.folder / FIGURES / f"{name}.png"
    if not path.is_file():
        from ember_hub.evaluation.figures import draw_figures

        path.parent.mkdir(parents=True, exist_ok=True)
        draw_figures(report, path.parent)
    return path


def base_card(folder: Path) -> str | None:
    """The base's own card, as the run kept it."""
    path = folder / BASE_CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def push_out(shop: Workshop, targets: Mapping[Form, Target]) -> list[Pushed]:
    """Push what this run wrote to the targets that were checked before it began."""
    written = {form: target for form, target in targets.items() if form in forms(shop)}
    return list(_push(shop.run, written, shop.progress))


def push_run(folder: Path, repo: str | None, form: str, options: PushOptions, *, anyway: bool, progress: Progress) -> list[Pushed]:
    """Push a finished run.

    Raises:
        RunNotFound: the folder holds none.
        GateFailed: a gate of the run failed, and `anyway` is false.
        PublishError: the Hub says no.
    """
    report = read_current(folder)
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    if failed and not anyway:
        raise GateFailed(f"{failed[0]['name']} is {failed[0]['value']}, the limit is {failed[0]['limit']}",
                         hint="push it all the same with --push-anyway; the card then says so first")
    written = [f for f in FORMS[form] if (folder / "out" / f).is_dir()]
    base = report["model"]["repo_id"] or report["model"]["name"]
    with Run.open(folder, {}) as run:
        found = targets({f: _repo(repo, f, written) for f in written}, base, report["concept"]["name"], options, progress)
        return list(_push(run, found, progress))


def planned_targets(publish: PublishSettings, base: str, concept: str, progress: Progress) -> dict[Form, Target]:
    """Where each form of a run that has not begun will go, checked on the Hub."""
    together = FORMS[publish.form]
    repos = {form: _repo(publish.repo, form, together) for form in together}
    options = PushOptions(publish.private, publish.create_pr, publish.tags, publish.collection, publish.yes)
    return targets(repos, base, concept, options, progress)


def targets(repos: Mapping[Form, str | None], base: str, concept: str, options: PushOptions, progress: Progress
            ) -> dict[Form, Target]:
    """Where each form goes, checked on the Hub; None is the default name."""
    return {form: preflight(repo, base, concept, form, options, _patience(progress)) for form, repo in repos.items()}


def _patience(progress: Progress) -> Patience:
    return Patience(say=partial(progress.say, "push"))


def _repo(repo: str | None, form: Form, together: Sequence[Form]) -> str | None:
    """When both forms are pushed, the patch's repository ends in `-patch`."""
    return f"{repo}-patch" if repo and len(together) > 1 and form == "patch" else repo


def _push(run: Run, targets: Mapping[Form, Target], progress: Progress) -> Iterator[Pushed]:
    report = read_current(run.folder)
    done = run.read_json("pushed.json") if (run.folder / "pushed.json").is_file() else {}
    for form, target in targets.items():
        _write_card(run, report, form, target.repo)
        with _kept(run, target):
            pushed = push(run.folder / "out" / form, target, f"Erase {report['concept']['title']} with ember-hub",
                          source=_source(report["model"]), progress=progress, patience=_patience(progress))
            _require_same(run.folder / "out" / form, pushed)
            done[form] = pushed.to_json()
            run.write_json("pushed.json", done)
            label(pushed, target, _patience(progress))
        yield pushed


def _source(model: Mapping[str, Any]) -> Source | None:
    """Where the Hub finds the base; a copy on disk may be of any commit."""
    if not model["repo_id"]:
        return None
    return Source(model["repo_id"], model["commit"] if model["source_kind"] == "hub" else None)


@contextmanager
def _kept(run: Run, target: Target) -> Iterator[None]:
    """Inside, a push that fails says how it goes on: nothing of the run is lost."""
    try:
        yield
    except PushRejected as error:
        form = "full" if target.form == "model" else target.form
        again = f"ember-hub push {shlex.quote(str(run.folder))} --as {form} --repo {target.repo}"
        raise PushRejected(error.message, hint=f"{error.hint}; the run is kept: `{again}`") from error


def _require_same(folder: Path, pushed: Pushed) -> None:
    for name, sha256 in pushed.files.items():
        if file_sha256(folder / os.fspath(name)) != sha256:
            raise HashMismatch(f"{name} changed while it was being pushed", hint="push again")
