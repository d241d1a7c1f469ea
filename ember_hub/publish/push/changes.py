"""What has to be done so that the repository holds the folder: upload, copy from the base on the Hub, delete."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ember_hub.publish.push.local import LocalFile
from ember_hub.publish.push.remote import Remote

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi

# What a loader takes for the model's weights: old ones would be loaded in place of the new when the sharding differs.
_WEIGHTS = re.compile(r"(?:model|adapter_model|consolidated)[^/]*\.safetensors(?:\.index\.json)?")
_OURS = ("ember/", "reproduce/")


@dataclass(frozen=True)
class Source:
    """The base's repository, and the commit that the result was made from; None: its newest."""

    repo: str
    commit: str | None


@dataclass(frozen=True)
class Changes:
    """Paths by what is done with them. `copies` maps a path to the base's path of the same content."""

    uploads: tuple[str, ...]
    stale: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None

    def __bool__(self) -> bool:
        return bool(self.uploads or self.copies or self.stale)

    def copied_from(self, source: Source, contents: Mapping[str, str], local: Mapping[str, LocalFile]) -> Changes:
        """The same, with what the source has (`contents`: sha256 to path) copied from there instead of uploaded."""
        copies = {path: contents[local[path].sha256] for path in self.uploads if local[path].sha256 in contents}
        return replace(self, uploads=tuple(path for path in self.uploads if path not in copies), copies=copies, source=source)

    def without_copies(self) -> Changes:
        return replace(self, uploads=(*self.uploads, *self.copies), copies={}, source=None)

    def operations(self, local: Mapping[str, LocalFile]
                   ) -> list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
        """The client's operations; it keeps state in them, so every commit needs new ones."""
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        found: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            CommitOperationAdd(path, str(local[path].path)) for path in self.uploads]
        if self.source is not None:
            found += [CommitOperationCopy(original, path, src_revision=self.source.commit, src_repo_id=self.source.repo,
                                          src_repo_type="model") for path, original in self.copies.items()]
        return found + [CommitOperationDelete(path) for path in self.stale]


def compare(local: Mapping[str, LocalFile], remote: Remote, listed: Collection[str] = ()) -> Changes:
    """The changes that make the repository hold the folder: its new files, and nothing left of an earlier result.

    Args:
        listed: the files that the earlier result names as its own. Files of others stay.
    """
    uploads = tuple(path for path, file in local.items() if not file.is_stored_as(remote.files.get(path)))
    stale = tuple(path for path in remote.files if path not in local
                  and (path in listed or path.startswith(_OURS) or _WEIGHTS.fullmatch(path)))
    return Changes(uploads, stale)


def contents_of(api: HfApi, source: Source) -> dict[str, str]:
    """The large files of a repository that the Hub can copy, by their sha256."""
    from huggingface_hub import RepoFile

    tree = api.list_repo_tree(source.repo, recursive=True, revision=source.commit)
    # The Hub copies within its Xet storage only; small files are no objects there, and travel in the commit.
    return {entry.lfs.sha256: entry.path for entry in tree if isinstance(entry, RepoFile) and entry.lfs and entry.xet_hash}
