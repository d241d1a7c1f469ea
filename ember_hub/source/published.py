"""An edited model or an adapter as somebody published it: brought to a folder, to be compared with its base."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ember_hub.errors import CorruptCheckpoint, ModelNotFound
from ember_hub.progress import Progress
from ember_hub.source.hub import hub_errors
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import resolve

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")


@dataclass(frozen=True)
class Published:
    """What is audited, on disk."""

    name: str
    repo_id: str | None
    commit: str | None
    folder: Path
    kind: Literal["checkpoint", "adapter"]
    base: str | None
    """The base that an adapter names; a checkpoint names none that could be trusted."""

    def identity(self) -> str:
        """The commit, or for an adapter in a folder a digest of its files."""
        return self.commit or hashlib.sha256(b"".join(
            hashlib.sha256((self.folder / name).read_bytes()).digest() for name in ADAPTER_FILES[:2])).hexdigest()


def resolve_published(ref: ModelRef, progress: Progress) -> Published:
    """Bring an edited model (repository, folder, GGUF file) or an adapter (repository, folder) to a folder.

    Raises:
        ModelNotFound, GatedModel, UnsupportedModel, CorruptCheckpoint, SourceError, DiskError: as for a base.
    """
    if ref.kind == "hub" and (found := _adapter_on_hub(ref)):
        return found
    if ref.kind == "folder" and (Path(ref.location) / ADAPTER_FILES[0]).is_file():
        return _adapter(ref, Path(ref.location), None, None)
    base = resolve(ref, progress)
    return Published(base.name, base.repo_id, base.commit, base.folder, "checkpoint", None)


def _adapter_on_hub(ref: ModelRef) -> Published | None:
    from huggingface_hub import resolve_revision, snapshot_download
    from huggingface_hub.constants import is_offline_mode

    with hub_errors(ref):
        commit = resolve_revision(ref.location, revision=ref.revision, local_files_only=is_offline_mode()).resolved
        folder = Path(snapshot_download(ref.location, revision=commit, allow_patterns=list(ADAPTER_FILES),
                                        local_files_only=is_offline_mode()))
    return _adapter(ref, folder, ref.location, commit) if (folder / ADAPTER_FILES[0]).is_file() else None


def _adapter(ref: ModelRef, folder: Path, repo_id: str | None, commit: str | None) -> Published:
    path = folder / ADAPTER_FILES[0]
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        base = about.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error}", hint="download the adapter again") from error
    if not (folder / ADAPTER_FILES[1]).is_file():
        raise ModelNotFound(f"{folder} holds an adapter without {ADAPTER_FILES[1]}",
                            hint="only adapters in safetensors can be audited; ask its author for them")
    return Published(ref.name, repo_id, commit, folder, "adapter", base if isinstance(base, str) and base else None)
