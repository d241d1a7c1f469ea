"""Finds releases of what is watched, and sifts out those that are not asked for or cannot be edited."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ember_hub.automation.hub import Hub
from ember_hub.automation.releases import Release, Watch, seconds
from ember_hub.errors import GatedModel
from ember_hub.publish.push import REPORT_FILE

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_DECIDING = (".safetensors", ".json", ".model", ".jinja", ".py", "vocab.txt", "merges.txt")
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_QUANTIZED = frozenset({"4-bit", "8-bit", "awq", "bitsandbytes", "compressed-tensors", "exl2", "exl3", "fp8", "gptq", "hqq", "mlx",
                        "nvfp4", "quantized"})
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class Candidate:
    """A repository that may hold a release. `is_recent` None: it is watched by name, whenever it was made."""

    repo: str
    is_recent: bool | None = None


@dataclass(frozen=True)
class Unsuited:
    """A repository that is left alone, at its present commit, and why."""

    commit: str | None
    reason: str


def of_organization(hub: Hub, watch: Watch, org: str) -> Iterator[Candidate]:
    """The newest and the most recently changed models of an organization that the watch covers.

    Raises:
        SourceError: the Hub does not list them.
    """
    def listed(by: Any) -> list[ModelInfo]:
        return hub.ask(org, lambda api: list(api.list_models(author=org, sort=by, limit=watch.limit)))

    first = _first(hub, watch)
    found = {info.id: info for info in (*listed("created_at"), *listed("last_modified"))}
    for repo, info in found.items():
        if watch.covers(repo):
            yield Candidate(repo, is_recent=_is_recent(info, first))


def of_repository(hub: Hub, watch: Watch, repo: str) -> Candidate:
    """One repository that the watch covers, as a round would have found it.

    Raises:
        SourceError: it is not there, or the Hub does not answer.
    """
    if repo in watch.models:
        return Candidate(repo)
    info = hub.ask(repo, lambda api: api.model_info(repo))
    return Candidate(repo, is_recent=_is_recent(info, _first(hub, watch)))


def examine(hub: Hub, watch: Watch, repo: str) -> Release | Unsuited:
    """The newest commit of a repository as a release, or the reason why it is none for us.

    Raises:
        SourceError: it is not there, or the Hub does not answer.
    """
    info = hub.ask(repo, lambda api: api.model_info(repo, files_metadata=True))
    reason = _not_editable(info) or _not_asked_for(info, watch) or _not_open(hub, info)
    if reason or info.sha is None:
        return Unsuited(info.sha, reason or "it has no commit")
    return Release(repo, info.sha, deciding_files(info))


def deciding_files(info: ModelInfo) -> dict[str, str]:
    """The hash of each file on which the result of an erasure depends; a new card alone is no new release."""
    return {file.rfilename: file.lfs.sha256 if file.lfs else str(file.blob_id) for file in info.siblings or ()
            if file.rfilename.endswith(_DECIDING)}


def files_at(hub: Hub, repo: str, commit: str) -> dict[str, str] | None:
    """The same of an earlier commit; None when the history no longer has it."""
    from huggingface_hub.errors import RevisionNotFoundError

    def look(api: Any) -> dict[str, str] | None:
        try:
            return deciding_files(api.model_info(repo, revision=commit, files_metadata=True))
        except RevisionNotFoundError:
            return None

    return hub.ask(repo, look)


def _first(hub: Hub, watch: Watch) -> datetime:
    return hub.now() - timedelta(seconds=seconds(watch.since))


def _is_recent(info: ModelInfo, first: datetime) -> bool:
    # A date in the future is a clock that is wrong, not a model that is old.
    return info.created_at is None or info.created_at >= first


def _not_editable(info: ModelInfo) -> str | None:
    names = {file.rfilename for file in info.siblings or ()}
    if REPORT_FILE in names:
        return "it is itself a result of ember-hub"
    if "adapter_config.json" in names:
        return "it is an adapter, not a full model"
    weights = {name for name in names if name == "model.safetensors" or _SHARD.fullmatch(name)}
    if not weights or "config.json" not in names:
        only_gguf = any(name.endswith(".gguf") for name in names)
        return "it holds GGUF files only" if only_gguf else "it holds no safetensors checkpoint (yet)"
    if (total := _shards(weights)) > len(weights):
        return f"its upload is not complete: {len(weights)} of {total} shards"
    tags = {tag.lower() for tag in info.tags or ()}
    if _QUANTIZED & tags or any(tag.startswith("base_model:quantized:") for tag in tags) \
            or "quantization_config" in (info.config or {}):
        return "its weights are quantized"
    architectures = (info.config or {}).get("architectures") or ()
    if architectures and not any(str(name).endswith(_DECODERS) for name in architectures):
        return f"{architectures[0]} is no language model that writes text"
    return None


def _shards(weights: set[str]) -> int:
    return max((int(match[2]) for name in weights if (match := _SHARD.fullmatch(name))), default=1)


def _not_asked_for(info: ModelInfo, watch: Watch) -> str | None:
    if watch.licences:
        stated = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
        if not set(stated) & set(watch.licences):
            return f"its licence is {', '.join(stated) or 'not stated'}"
    if watch.parameters is not None:
        total = info.safetensors.total if info.safetensors else None
        if total is None or total > watch.parameters:
            return "the Hub does not know its size" if total is None else f"it has {total / 1e9:.3g}B parameters"
    return None


def _not_open(hub: Hub, info: ModelInfo) -> str | None:
    if not info.gated:
        return None
    try:
        hub.ask(info.id, lambda api: api.auth_check(info.id))
    except GatedModel:
        return "it is gated, and this token has no access"
    return None
