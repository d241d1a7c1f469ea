"""An erasure that loads no model: rows of the embedding alone are read, the strength is a stated one, nothing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.edits.edit import Edit, LowRankRows
from ember_hub.errors import NotVerified, UsageError
from ember_hub.evaluation.evidence import EDITED
from ember_hub.evaluation.examination import PARTS, Part, Syllabus
from ember_hub.features.selection import ConceptRows
from ember_hub.patches.patch import Patch, sha256
from ember_hub.publish.export import bytes_sha256, export_model
from ember_hub.publish.patch import make_patch
from ember_hub.settings import Settings
from ember_hub.source.ref import ModelRef
from ember_hub.stages.deliver import FILES, forms
from ember_hub.stages.embed import ROWS, TUNING, record_strength
from ember_hub.stages.origin import origin
from ember_hub.stages.workshop import BEFORE, EMBER_EDIT, Workshop

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ember_hub.source.anatomy import Anatomy

_MEASURE = "leave out --battery none, which downloads the model, chooses by measuring and verifies the result"


@dataclass(frozen=True)
class Unmeasured(Workshop):
    """One erasure whose result nobody has asked a question: what a model would tell is told by its config and its rows."""

    @property
    def anatomy(self) -> Anatomy:
        return self.vocabulary.anatomy

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.vocabulary.tokenizer

    @cached_property
    def syllabus(self) -> Syllabus:
        """Nobody was asked, so nobody is known to know anything."""
        nobody: dict[Part, frozenset[str]] = {part: frozenset() for part in PARTS}
        return Syllabus("letter", {"tune": nobody, "test": nobody})

    def embedding_rows(self, ids: Tensor) -> Tensor:
        return self.vocabulary.read_rows(ids)

    def states(self) -> tuple[str, ...]:
        return (EDITED,)

    def edit_stages(self) -> tuple[str, ...]:
        return ("ember",)

    def edit_of(self, state: str) -> Edit:
        return self.ember_edit() if state == EDITED else Edit.none()

    def remarks(self) -> list[str]:
        name, base = self.pack.name, self.base.repo_id or self.base.name
        return [
            "nothing about the answers was measured: whether the concept is gone, what else was lost, and how easily it comes back "
            f"is not known; `ember-hub verify REPO --base {base} --concept {name}` measures it",
            f"the strength {self.settings.ember.untuned_strength:g} is a fixed one: it was not chosen for this model and concept",
            "no model was loaded: that the files hold the meant rows was checked bit for bit, how the edited model answers was not",
        ]


def decided(settings: Settings, ref: ModelRef) -> Settings:
    """The settings with their battery: none where a patch is all that is wanted and the weights are on the Hub, else quick.

    Raises:
        UsageError: nothing shall be measured, but what is asked for has to be chosen by measuring.
    """
    verify = settings.verify
    is_cheap = ref.kind == "hub" and settings.publish.form == "patch" and settings.ember.enabled and not settings.methods
    if verify.battery is None:
        asks = bool(verify.only or verify.skip or verify.bench)
        chosen = "none" if is_cheap and not asks else "quick"
        settings = settings.model_copy(update={"verify": verify.model_copy(update={"battery": chosen})})
    elif verify.battery == "none" and (verify.only or verify.skip or verify.bench):
        raise UsageError("--battery none measures nothing, and --only, --skip or --bench name something to measure",
                         hint="leave out one of them")
    if not settings.is_measured and (settings.methods or not settings.ember.enabled):
        raise UsageError(f"without a measurement {' and '.join(settings.methods) or 'nothing'} cannot be fitted",
                         hint=f"add --method none for the embedding edit alone, or {_MEASURE}")
    return settings


def describe_base(shop: Workshop) -> None:
    """What the config says of the base, in the place of what a loaded model would show."""
    shop.run.stage("before", (), (BEFORE,), lambda: shop.run.write_json(BEFORE, origin(shop)))


def fix_strength(shop: Workshop) -> None:
    """The edit at the strength that the settings state: without a measurement none can be preferred."""
    def work() -> None:
        rows, ember = ConceptRows.load(shop.run.folder / ROWS), shop.settings.ember
        name, strength = shop.anatomy.embedding, shop.settings.ember.untuned_strength
        change = LowRankRows(rows.token_ids, rows.G, rows.F, strength, ember.clip)
        edit = Edit({name: change}, {"ember": ember.variant, "features": rows.F.shape[1]})
        shop.keep_edit(EMBER_EDIT, edit)
        record_strength(shop, edit, strength, [])

    shop.run.stage("ember", ("features", "before"), (EMBER_EDIT, TUNING), work)
    chosen = shop.run.read_json(TUNING)
    shop.say("ember", f"{chosen['rows']} rows at the stated strength {chosen['strength']:g}: none was tried · "
                      f"{shop.run.folder / TUNING}")


def write_out(shop: Workshop) -> None:
    """The patch or the model; its files are read back and compared, and no model is loaded."""
    outputs = (*(f"out/{form}" for form in forms(shop)), FILES)
    shop.run.stage("out", ("before", *shop.edit_stages()), outputs, lambda: _write_out(shop))
    out = shop.run.folder / "out"
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    shop.say("out", f"{' and '.join(forms(shop))} read back bit-equal; no model was loaded · {size / 2**20:,.1f} MiB · {out}")


def _write_out(shop: Workshop) -> None:
    edit, run = shop.edit_of(EDITED), shop.run
    about: dict[str, Any] = {"model": None, "patch": None}
    if "model" in forms(shop):
        proof = export_model(shop.base.folder, shop.anatomy, edit, run.path("out/model"), shop.progress)
        about["model"] = {"identical": len(proof.identical), "changed": list(proof.changed), "added": list(proof.added),
                          "reload": "every tensor compared with the base's on disk; no model was loaded"}
    if "patch" in forms(shop):
        folder = run.path("out/patch")
        make_patch(shop.base, shop.anatomy, edit, folder, unrounded=edit)
        about["patch"] = {"carries": "everything", **_read_back(shop, edit, folder)}
    for form in forms(shop):
        files = [f for f in (run.folder / "out" / form).rglob("*") if f.is_file()]
        about[form] |= {"bytes": sum(f.stat().st_size for f in files), "files": len(files)}
    run.write_json(FILES, about)


def _read_back(shop: Workshop, edit: Edit, folder: Path) -> dict[str, Any]:
    """Compare the patch's rows, as its files hold them, with the edit of the base's rows at the pinned commit.

    Raises:
        NotVerified: they differ.
    """
    patch, vocabulary = Patch.open(folder), shop.vocabulary
    change = edit.changes[shop.anatomy.embedding]
    assert isinstance(change, LowRankRows), "fix_strength makes no other kind"
    order = change.token_ids.argsort()
    before = vocabulary.read_rows(change.token_ids[order])
    meant = change.moved(vocabulary.read_rows(change.token_ids)).to(before.dtype)[order]
    if patch.token_ids.tolist() != change.token_ids[order].tolist() or patch.originals is None \
            or sha256(patch.rows) != bytes_sha256(meant) or sha256(patch.originals) != bytes_sha256(before):
        raise NotVerified("the rows in the patch are not those that were meant",
                          hint="the disk or another program changed the files: run the command again")
    return {"reload": f"{len(order)} rows read back bit-equal from the patch's files; no model was loaded",
            "rows_sha256": bytes_sha256(meant), "base_rows_sha256": bytes_sha256(before)}
