"""Brings a model to a local checkpoint folder and pins what it is: commit, licence, gating.

A repository is asked about before anything is downloaded; what cannot be edited is refused there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.errors import CorruptCheckpoint, DiskError, ModelNotFound, UnsupportedModel
from ember_hub.progress import Progress, Quiet
from ember_hub.source.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from ember_hub.source.gguf import convert_gguf
from ember_hub.source.hub import hub_errors
from ember_hub.source.ref import Kind, ModelRef, is_repo_id
from ember_hub.source.remote import RemoteCheckpoint
from ember_hub.source.weights import Weights

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_LICENCE_FILE = re.compile(r"(?:.*[_-])?(?:licen[cs]e|notice|use_policy|copying)(?:[._-].*)?", re.IGNORECASE)
_COMPANION = re.compile(r".*\.(?:json|jinja|txt|model|py)|README\.md", re.IGNORECASE)
_OTHER_FORMATS = re.compile(r"pytorch_model.*|tf_model.*|flax_model.*|.*\.index\.json|adapter_.*", re.IGNORECASE)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_WEIGHTS = ".safetensors"
_MIB = 1 << 20


@dataclass(frozen=True)
class Licence:
    """The terms of the base as its card states them; `id` is "unknown" where it states none."""

    id: str
    name: str | None = None
    link: str | None = None
    files: tuple[str, ...] = ()
    """Licence texts, notices and use policies in the folder, to be passed on with an edited model."""


@dataclass(frozen=True)
class Base:
    """A model on disk, and which one it is."""

    name: str
    repo_id: str | None
    commit: str | None
    """Sha of the repository's commit; for a folder a fingerprint of its headers, for a GGUF file its sha256."""
    folder: Path
    licence: Licence
    gated: bool
    source_kind: Kind
    has_weights: bool = True
    """Whether the folder holds the weights; without, they are read from the Hub by range."""

    def weights(self, progress: Progress | None = None) -> Weights:
        """The base's tensors, wherever they are.

        Raises:
            CorruptCheckpoint, NoRangedReads, SourceError: as `Checkpoint.open` and `RemoteCheckpoint.open` do.
        """
        if self.has_weights or self.repo_id is None or self.commit is None:
            return Checkpoint.open(self.folder)
        return RemoteCheckpoint.open(self.repo_id, self.commit, progress)


def resolve(ref: ModelRef, progress: Progress | None = None, base_id: str | None = None, *,
            with_weights: bool = True) -> Base:
    """Make the model a local checkpoint folder: download it, convert it, or check that it is one.

    Args:
        base_id: the repository that a folder or GGUF file is a copy of.
        with_weights: False leaves the weights of a repository on the Hub, unless they were downloaded before; config,
            tokenizer, card and licence come all the same. Folders and GGUF files have theirs anyhow.

    Raises:
        ModelNotFound, GatedModel, UnsupportedModel, CorruptCheckpoint: as their names say.
        SourceError: the Hub cannot be reached.
        DiskError: there is not enough room.
    """
    progress = progress or Quiet()
    if base_id is not None and not is_repo_id(base_id):
        raise ModelNotFound(f"{base_id!r} is not the id of a repository", hint="write it as org/name")
    if ref.kind == "hub":
        return _resolve_hub(ref, progress, with_weights)
    if ref.kind == "gguf":
        folder, commit = convert_gguf(Path(ref.location), progress)
    else:
        folder = Path(ref.location)
        commit = fingerprint(folder)
    return Base(ref.name, base_id, commit, folder, read_licence(folder), _says_gated(folder), ref.kind)


def fingerprint(folder: Path) -> str:
    """A sha256 that tells checkpoints apart by their config and safetensors headers, without reading the weights.

    Raises:
        ModelNotFound, UnsupportedModel, CorruptCheckpoint: the folder is no checkpoint.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} is not a checkpoint: it has no config.json",
                            hint="give the folder that holds config.json and the safetensors files")
    sha = hashlib.sha256(hashlib.sha256((folder / "config.json").read_bytes()).digest())
    for file in Checkpoint.open(folder).files:
        sha.update(f"{file.path.name}\0{file.size}\0".encode())
        sha.update(hashlib.sha256(file.header).digest())
    return sha.hexdigest()


def read_licence(folder: Path) -> Licence:
    """The licence that the folder's model card states, and the licence files beside it."""
    card = _card(folder)
    stated = card.get("license")
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    files = tuple(sorted(path.name for path in folder.iterdir()
                         if path.is_file() and _LICENCE_FILE.fullmatch(path.name)))
    return Licence(str(stated or "unknown"), card.get("license_name"), card.get("license_link"), files)


def _card(folder: Path) -> dict[str, Any]:
    import yaml
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        # A card nobody can parse states no licence, and "unknown" is what the reader is told.
        return {}


def _says_gated(folder: Path) -> bool:
    # Away from the Hub only the card tells: the gate's form is described there.
    return any(key.startswith("extra_gated_") for key in _card(folder))


def _resolve_hub(ref: ModelRef, progress: Progress, with_weights: bool) -> Base:
    from huggingface_hub import model_info, resolve_revision, snapshot_download
    from huggingface_hub.constants import is_offline_mode

    is_offline = is_offline_mode()
    with hub_errors(ref):
        # Also notes in the cache which commit the revision was, for the day when the Hub cannot be asked.
        commit = resolve_revision(ref.location, revision=ref.revision, local_files_only=is_offline).resolved
        if is_offline:
            folder = Path(snapshot_download(ref.location, revision=commit, local_files_only=True,
                                            allow_patterns=["config.json"]))
            gated = _says_gated(folder)
            has_weights = with_weights or _is_complete(folder)
        else:
            info = model_info(ref.location, revision=commit, files_metadata=True)
            gated = info.gated in ("auto", "manual")
            files = _wanted(ref, info)
            has_weights = with_weights or not _missing(ref, commit, {n for n in files if n.endswith(_WEIGHTS)})
            folder = _download(ref, commit, {n: size for n, size in files.items()
                                             if has_weights or not n.endswith(_WEIGHTS)}, progress)
    if has_weights:
        fingerprint(folder)
    return Base(ref.name, ref.location, commit, folder, read_licence(folder), gated, "hub", has_weights)


def _is_complete(folder: Path) -> bool:
    try:
        Checkpoint.open(folder)
    except (ModelNotFound, CorruptCheckpoint):
        return False
    return True


def _missing(ref: ModelRef, commit: str, names: Iterable[str]) -> set[str]:
    """Those of the files that the client's cache does not hold."""
    from huggingface_hub import try_to_load_from_cache

    return {name for name in names if not isinstance(try_to_load_from_cache(ref.location, name, revision=commit), str)}


def _wanted(ref: ModelRef, info: ModelInfo) -> dict[str, int]:
    """Name and size of each file to download.

    Raises:
        UnsupportedModel: the repository holds no model that can be edited.
    """
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    _refuse_other_formats(ref, set(sizes))
    # Repositories hold the same weights several times (other precisions, consolidated files): take what loads.
    weights = {SINGLE_FILE} if SINGLE_FILE in sizes else {n for n in sizes if _SHARD.fullmatch(n)} | {INDEX_FILE}
    return {name: size for name, size in sizes.items()
            if name in weights or name.startswith("additional_chat_templates/")
            or ("/" not in name and not _OTHER_FORMATS.fullmatch(name)
                and (_COMPANION.fullmatch(name) or _LICENCE_FILE.fullmatch(name)))}


def _refuse_other_formats(ref: ModelRef, names: set[str]) -> None:
    if SINGLE_FILE in names or INDEX_FILE in names:
        if "config.json" in names:
            return
        found, hint = "no config.json", "name the repository of a transformers model"
    elif "adapter_config.json" in names:
        found, hint = "an adapter, not a full model", "merge it into its base model first, or name the base"
    elif any(name.endswith(".gguf") for name in names):
        found, hint = "only GGUF files", "download one and give its path, or name the original model"
    elif any(name.endswith((".bin", ".pth", ".pt")) for name in names):
        found = "no safetensors, only pickled weights"
        hint = "convert it at https://huggingface.co/spaces/safetensors/convert"
    else:
        found, hint = f"no {SINGLE_FILE}", "name the repository of a transformers model"
    raise UnsupportedModel(f"{ref.location} holds {found}", hint=hint)


def _download(ref: ModelRef, commit: str, files: dict[str, int], progress: Progress) -> Path:
    from huggingface_hub import snapshot_download

    missing = sum(files[name] for name in _missing(ref, commit, files))
    _require_room(missing)
    with progress.steps(f"downloading {ref.name} (MiB)", missing // _MIB) as done:
        return Path(snapshot_download(ref.location, revision=commit, allow_patterns=sorted(files),
                                      tqdm_class=_bar_class(done)))


def _require_room(needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DiskError(f"the download takes {needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free",
                        hint="make room, or set HF_HOME to a folder on a larger disk")


def _bar_class(done: Any) -> type:
    """A tqdm that draws nothing and counts downloaded bytes into our progress, from several threads."""
    from tqdm import tqdm

    lock = threading.Lock()

    class Bar(tqdm):
        def __init__(self, *args: Any, name: str | None = None, **options: Any) -> None:
            self.counts = options.get("unit") == "B" and not str(options.get("desc")).startswith("Downloading")
            self.bytes = 0
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                with lock:
                    before, self.bytes = self.bytes // _MIB, self.bytes + int(n)
                    if self.bytes // _MIB > before:
                        done(self.bytes // _MIB - before)

    return Bar
