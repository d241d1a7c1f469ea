"""A published result as it is found: on the Hub, in a folder, or in the run that made it. All of it is data from others.

Of a repository only the small files are downloaded; what the Hub says of the hashes of the large ones is taken from its listing.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ember_hub.errors import NotReproduced, RunNotFound
from ember_hub.progress import Progress
from ember_hub.publish.push import REPORT_FILE, Form
from ember_hub.publish.report.schema import as_current
from ember_hub.publish.reproduce import ENVIRONMENT, FOLDER, RECIPE, SUMS
from ember_hub.publish.reproduce.recipe import KEPT, is_place, pack_text
from ember_hub.run import file_sha256
from ember_hub.source.hub import hub_errors
from ember_hub.source.ref import ModelRef

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

_SUM = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
_OWN = re.compile(rf"(?:{FOLDER}|ember)/[^/]+(?:/[^/]+)*")
_ASK = "ask whoever published it; nothing was run"
_NEVER = frozenset({"output", "trust_remote_code"})


@dataclass(frozen=True)
class Original:
    """A published result, its files checked against its own list."""

    name: str
    commit: str | None
    form: Form
    folder: Path
    """Holds at least its small files."""
    report: Mapping[str, Any]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    sums: Mapping[str, str]
    """SHA-256 by path in the folder."""

    @property
    def is_measured(self) -> bool:
        return bool(self.report["battery"] != "none")

    def pack(self) -> str | None:
        """The concept pack that came with it, as `--concept` names it."""
        return pack_text(self.folder, str(self.report["concept"]["name"]))

    def settings(self) -> dict[str, Any]:
        """What the recipe may decide here: no folder, no address, no target of a push, and no code of others."""
        known = {key: value for key, value in self.recipe.items() if key not in _NEVER}
        for section, keys in KEPT.items():
            known[section] = {key: value for key, value in known.get(section, {}).items() if key in keys}
        known["plugins"] = {name: {key: value for key, value in fixed.items() if not is_place(value)}
                            for name, fixed in known.get("plugins", {}).items()}
        return known


def open_original(text: str, progress: Progress) -> tuple[Original, ...]:
    """The published results of a repository `org/name[@revision]`, of a folder, or of a finished run.

    Raises:
        RunNotFound: no result of ember-hub that can be made again is there.
        NotReproduced: a file is not the one that its list names, or cannot be read.
        ModelNotFound, GatedModel, SourceError: as for any model.
    """
    ref = ModelRef.parse(text)
    if ref.kind == "hub":
        return (_from_hub(ref),)
    root = Path(ref.location)
    folders = [folder for folder in (root / "out/model", root / "out/patch") if folder.is_dir()] or [root]
    return tuple(_from_folder(folder, text, progress) for folder in folders)


def _from_hub(ref: ModelRef) -> Original:
    from huggingface_hub import HfApi, RepoFile, resolve_revision, snapshot_download

    with hub_errors(ref):
        commit = resolve_revision(ref.location, revision=ref.revision).resolved
        tree = HfApi().list_repo_tree(ref.location, recursive=True, revision=commit)
        files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        small = [path for path, file in files.items() if file.lfs is None or _OWN.fullmatch(path)]
        folder = Path(snapshot_download(ref.location, revision=commit, allow_patterns=[*map(escape, small)]))
    listed = _sums(folder, ref.location)
    for path, sha256 in listed.items():
        _require_same(ref.location, path, sha256, _found(folder, path, files.get(path)))
    return _original(ref.location, commit, folder, listed)


def _found(folder: Path, path: str, file: RepoFile | None) -> str | None:
    if file is None:
        return None
    return str(file.lfs.sha256) if file.lfs else file_sha256(folder / path)


def _from_folder(folder: Path, name: str, progress: Progress) -> Original:
    listed = _sums(folder, name)
    with progress.steps("hashing (files)", len(listed)) as done:
        for path, sha256 in listed.items():
            place = folder / path
            _require_same(name, path, sha256, file_sha256(place) if place.is_file() else None)
            done(1)
    return _original(name, None, folder, listed)


def _sums(folder: Path, name: str) -> dict[str, str]:
    """The list of the result's own files.

    Raises:
        RunNotFound: there is none.
        NotReproduced: it is no such list, or does not name what everything rests on.
    """
    path = folder / SUMS
    if not path.is_file():
        raise RunNotFound(f"{name} holds no result that can be made again: it has no {SUMS}",
                          hint="name a repository that ember-hub published, the folder of one, or the folder of a finished run")
    found = [_SUM.fullmatch(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    sums = {match[2]: match[1] for match in found if match and _is_inside(match[2])}
    if len(sums) < len(found) or not {RECIPE, ENVIRONMENT, REPORT_FILE} <= sums.keys():
        raise NotReproduced(f"{SUMS} of {name} is damaged, or lacks {RECIPE}, {ENVIRONMENT} or {REPORT_FILE}", hint=_ASK)
    return sums


def _is_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts and "\\" not in path


def _require_same(name: str, path: str, listed: str, found: str | None) -> None:
    if found != listed:
        what = "is not there" if found is None else f"has SHA-256 {found[:12]}…"
        raise NotReproduced(f"{path} of {name} {what}; {SUMS} says {listed[:12]}…: it is not as it was published", hint=_ASK)


def _original(name: str, commit: str | None, folder: Path, sums: Mapping[str, str]) -> Original:
    try:
        report = as_current(json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))
        recipe = tomllib.loads((folder / RECIPE).read_text(encoding="utf-8"))
        environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        original = Original(name, commit, "patch" if "adapter_config.json" in sums else "model", folder, report, recipe,
                            environment, sums)
        _require_shape(original)
    except (RunNotFound, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise NotReproduced(f"the recipe, the report or the environment of {name} cannot be read: {error}", hint=_ASK) from error
    if report["kind"] != "erasure":
        raise RunNotFound(f"{name} is an audit of something that was made elsewhere",
                          hint="name the result itself; an audit is made again by the command in its report")
    return original


def _require_shape(original: Original) -> None:
    """Touches everything that is read later, so that what is missing is told before anything is run."""
    report = original.report
    needed = [report["model"]["source_kind"], report["model"]["name"], report["concept"]["sha256"], report["out"].get("patch"),
              [row["reproducible"] for row in (*report["evaluations"], *report["attacks"])], [*_numbers(report)],
              original.environment["versions"].items(), original.settings()]
    assert needed


def _numbers(report: Mapping[str, Any]) -> Iterator[float]:
    for score in report["scores"]:
        yield score["value"] + score["low"] + score["high"] + len(score["name"] + score["stage"])
