"""The audit of an edited model that somebody else made: its difference to the base takes the place of our own edits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ember_hub.edits.controls import random_like
from ember_hub.edits.difference import difference
from ember_hub.edits.edit import Edit
from ember_hub.evaluation.evidence import BASE, EDITED, RANDOM
from ember_hub.source.published import Published
from ember_hub.stages.workshop import RANDOM_EDIT, Workshop

DIFFERENCE = "edits/difference.safetensors"


@dataclass(frozen=True)
class Audit(Workshop):
    """One audit under way: the states are the base, the published model, and a random edit of equal norm."""

    published: Published

    kind: ClassVar[Literal["erasure", "audit"]] = "audit"

    def states(self) -> tuple[str, ...]:
        return EDITED, RANDOM

    def edit_stages(self) -> tuple[str, ...]:
        return ("difference",)

    def edit_of(self, state: str) -> Edit:
        return {BASE: Edit.none, EDITED: lambda: self.edit(DIFFERENCE), RANDOM: lambda: self.edit(RANDOM_EDIT)}[state]()

    def written(self) -> tuple[Path | None, Path | None]:
        folder = self.published.folder
        return (folder, None) if self.published.kind == "checkpoint" else (None, folder)

    def audited(self) -> dict[str, Any]:
        about = self.edit(DIFFERENCE).provenance
        return {"name": self.published.name, "repo_id": self.published.repo_id, "commit": self.published.commit,
                "kind": self.published.kind, "changed": about.get("changed"), "rows": about.get("rows")}


def find_difference(audit: Audit) -> None:
    """What turns the base into the audited model, and a random edit that moves the same parameters as far."""
    def work() -> None:
        found = difference(audit.base.folder, audit.published.folder, audit.loaded.anatomy, audit.progress)
        audit.keep_edit(DIFFERENCE, found)
        parameters = {name: audit.loaded.parameter(name) for name in found.changes}
        audit.keep_edit(RANDOM_EDIT, random_like(found, parameters, audit.settings.seed))

    audit.run.stage("difference", (), (DIFFERENCE, RANDOM_EDIT), work)
    about = audit.audited()
    audit.say("difference", f"{about['changed']} tensors differ, {about['rows']} rows of the embedding · "
                            f"{audit.run.folder / DIFFERENCE}")
