"""Patches on the Hub: brought to a folder, and held against the newest commit of their base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ember_hub.errors import GateFailed, PatchInvalid
from ember_hub.patches.folder import FILES, PATCH_FILE
from ember_hub.patches.patch import Patch, sha256
from ember_hub.progress import Progress
from ember_hub.source.hub import hub_errors
from ember_hub.source.naming import tensor_names
from ember_hub.source.ref import ModelRef

_COMPANIONS = ("*.json", "*.jinja", "LICEN?E*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class Drift:
    """Whether a patch still fits its base.

    Attributes:
        made_for: the commit it was made for.
        newest: the newest commit of the base.
        reason: why it does not fit that one; None if it does.
    """

    repo: str
    made_for: str | None
    newest: str
    reason: str | None

    @property
    def fits(self) -> bool:
        return self.reason is None

    def require_fit(self) -> None:
        """Raises GateFailed if the patch must be made again."""
        if self.reason is not None:
            raise GateFailed(f"the patch does not fit {self.repo}@{self.newest}: {self.reason}; it must be made again",
                             hint=f"run `ember-hub erase {self.repo} --as patch` again, or go on with the commit {self.made_for}")


def patch_folder(text: str) -> Path:
    """The folder of a patch named by a folder, or by `org/name[@revision]`: then its small files are downloaded.

    Raises:
        ModelNotFound, GatedModel, SourceError: there is no such folder or repository, or it may not be read.
        PatchInvalid: the repository holds no patch.
    """
    ref = ModelRef.parse(text)
    if ref.kind != "hub":
        return Path(ref.location)
    from huggingface_hub import snapshot_download

    with hub_errors(ref):
        folder = Path(snapshot_download(ref.location, revision=ref.revision, allow_patterns=[*FILES, *_COMPANIONS]))
    if not (folder / PATCH_FILE).is_file():
        raise PatchInvalid(f"{text} holds no patch: it has no {PATCH_FILE}", hint="name the repository that ends in -patch")
    return folder


def drift(patch: Patch, progress: Progress) -> Drift:
    """Whether the rows that the patch was made for are those of its base's newest commit; reads only these rows.

    Raises:
        PatchInvalid: the base is no repository of the Hub.
        ModelNotFound, GatedModel, NoRangedReads, SourceError: the base is gone, or cannot be read.
    """
    from huggingface_hub import model_info

    base = patch.base
    if base.repo is None:
        raise PatchInvalid(f"the patch was made for a {base.source}, which has no newer commit",
                           hint="make the patch from a repository, or name the one that the base is a copy of: --base-id")
    with hub_errors(ModelRef("hub", base.repo)):
        newest = str(model_info(base.repo).sha)
    if newest == base.commit:
        return Drift(base.repo, base.commit, newest, None)
    return Drift(base.repo, base.commit, newest, _difference(patch, base.repo, newest, progress))


def _difference(patch: Patch, repo: str, commit: str, progress: Progress) -> str | None:
    from ember_hub.source.remote import RemoteCheckpoint

    table, weights = patch.table, RemoteCheckpoint.open(repo, commit, progress)
    found = tensor_names(weights, table.parameter)
    if len(found) != 1:
        return f"it has no tensor {table.tensor}"
    info = weights.info(found[0])
    if (info.code, info.shape) != (table.dtype, (table.vocab, table.d_model)):
        return f"{info.name} is {info.code} {list(info.shape)}, it was {table.dtype} {[table.vocab, table.d_model]}"
    rows = weights.read_row_bytes(info.name, patch.token_ids)
    if sha256(rows) == patch.original_sha256:
        return None
    if patch.originals is None:
        return "the base's rows of the edited tokens changed"
    return f"{int((rows != patch.originals).any(axis=1).sum())} of the {len(patch)} rows changed"
