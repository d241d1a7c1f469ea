"""`ember-hub verify-files`: which tensors of an edited checkpoint differ from its base, proven by their hashes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ember_hub.cli.live import Live
from ember_hub.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from ember_hub.source.checkpoint import Checkpoint
    from ember_hub.source.comparison import FileComparison

SCHEMA = 1


@click.command("verify-files")
@click.argument("edited", type=click.Path(path_type=Path))
@click.option("--base", required=True, type=click.Path(path_type=Path), help="Folder of the model that it was made from.")
@click.option("--expect", multiple=True, metavar="NAME",
              help="A parameter that may differ; may be repeated. Any other difference then makes the exit code 3.")
@click.option("--all", "shows_all", is_flag=True, help="List the identical tensors too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def verify_files(edited: Path, base: Path, expect: tuple[str, ...], shows_all: bool, as_json: bool) -> None:
    """Compare the checkpoint in the folder EDITED (or of the run in it) with its base, tensor by tensor and byte by byte.

    No model is loaded. Without --expect this is a report, and the exit code is 0 whatever differs.
    """
    from ember_hub.source.checkpoint import Checkpoint
    from ember_hub.source.comparison import compare

    ours, theirs = [Checkpoint.open(folder) for folder in [_folder(path) for path in (base, edited)]]
    allowed = {tensor for name in expect for tensor in _tensors(name, ours, theirs)}
    found = report(ours, theirs, compare(ours, theirs, Live(), digests_of_shared=True))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        for line in lines(found, shows_all):
            click.echo(line)
    strays = [t["name"] for t in found["tensors"] if t["status"] != "identical" and t["name"] not in allowed]
    if expect and strays:
        raise GateFailed(f"{len(strays)} tensors differ that were not expected to, the first is {strays[0]}",
                         hint="allow it with --expect, or do not trust that only the others were edited")


def report(base: Checkpoint, edited: Checkpoint, found: FileComparison) -> dict[str, Any]:
    """The comparison as plain data; hashes are those of a tensor's bytes as they lie in the file."""
    status = {name: kind for kind in ("identical", "changed", "added", "removed") for name in getattr(found, kind)}
    return {
        "schema": SCHEMA, "base": str(base.folder), "edited": str(edited.folder),
        "counts": {kind: len(getattr(found, kind)) for kind in ("identical", "changed", "added", "removed")},
        "tensors": [{"name": name, "status": kind, "base": _tensor(base, name, found.original_sha256),
                     "edited": _tensor(edited, name, found.rewritten_sha256)} for name, kind in status.items()],
        "files": list(_files(base, edited, found)),
    }


def lines(found: Mapping[str, Any], shows_all: bool) -> Iterator[str]:
    """The report for people: what differs, the files, and the sums."""
    for tensor in found["tensors"]:
        if shows_all or tensor["status"] != "identical":
            sides = [side for side in (tensor["base"], tensor["edited"]) if side]
            shapes = dict.fromkeys(f"{side['dtype']} {side['shape']}" for side in sides)
            digests = dict.fromkeys(side["sha256"] for side in sides)
            yield f"{tensor['status']:<10} {tensor['name']}  {' → '.join(shapes)}"
            yield from (f"{'':<10} {digest}" for digest in digests)
    for file in found["files"]:
        told = " (one file on the disk under both names)" if file["is_shared"] else ""
        yield f"{file['status']:<10} {file['name']}{told}"
    counts, files = found["counts"], found["files"]
    same = sum(file["status"] == "identical" for file in files)
    yield (f"{sum(counts.values())} tensors: {', '.join(f'{number} {kind}' for kind, number in counts.items())} · "
           f"{same} of {len(files)} files byte for byte the base's")


def _folder(path: Path) -> Path:
    """The folder itself, or the edited model of the run that is in it."""
    if not path.is_dir():
        raise UsageError(f"{path} is {'a file' if path.exists() else 'not there'}, but two folders are compared",
                         hint="give folders with safetensors; `hf download ORG/NAME` prints where it puts a repository")
    made = path / "out" / "model"
    return made if made.is_dir() else path


def _tensors(name: str, *checkpoints: Checkpoint) -> Sequence[str]:
    from ember_hub.source.naming import tensor_names

    found = [tensor for checkpoint in checkpoints for tensor in tensor_names(checkpoint, name)]
    if not found:
        raise UsageError(f"neither checkpoint has a tensor {name!r}", hint="look at the names with --all")
    return found


def _tensor(checkpoint: Checkpoint, name: str, digests: Mapping[str, str]) -> dict[str, Any] | None:
    info = checkpoint.tensors.get(name)
    return None if info is None else {"dtype": info.code, "shape": list(info.shape), "sha256": digests[name]}


def _files(base: Checkpoint, edited: Checkpoint, found: FileComparison) -> Iterator[dict[str, Any]]:
    before, after = ({file.path.name for file in checkpoint.files} for checkpoint in (base, edited))
    for name in sorted(before | after):
        status = ("identical" if name in found.same_files else "added" if name not in before
                  else "removed" if name not in after else "changed")
        yield {"name": name, "status": status, "is_shared": name in found.shared_files}
