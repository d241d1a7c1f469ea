"""A patch of what is there already: a finished run, an edit on disk, or a model that anybody edited."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from ember_hub.edits import store
from ember_hub.edits.difference import difference
from ember_hub.edits.edit import Edit
from ember_hub.errors import RunNotFound, UsageError
from ember_hub.patches.patch import Patch
from ember_hub.patches.storage import require_new
from ember_hub.progress import Progress
from ember_hub.publish.patch import make_patch
from ember_hub.source.anatomy import anatomy_of_config
from ember_hub.source.published import resolve_published
from ember_hub.source.ref import ModelRef
from ember_hub.source.resolve import resolve
from ember_hub.stages.workshop import EMBER_EDIT

_COMMIT = 40
"""Characters of a commit of the Hub; fingerprints of folders and files are longer."""


def patch_of_edited(edited: str, base: str | None, out: Path, base_id: str | None, progress: Progress) -> Patch:
    """Write the patch of a run's folder, of an edit file, or of an edited model or adapter by its difference to the base.

    Args:
        base: the model that it was made from; an adapter, and a run on a repository, name their own.
        base_id: the repository that a base in a folder or GGUF file is a copy of.

    Raises:
        UsageError: no base is given where one is needed.
        RunNotFound: the run has no edit yet.
        EmptyEdit, EditError: nothing, or too much, of the embedding changes.
        DiskError: `out` exists, or cannot be written.
    """
    require_new(out)
    place = Path(edited)
    methods: tuple[str, ...] = ()
    if (place / "run.toml").is_file():
        made = tomllib.loads((place / "run.toml").read_text("utf-8"))
        methods = tuple(made["settings"]["methods"])
        base = _required(base or _on_the_hub(made["model"]))
        found, edit = resolve(ModelRef.parse(base), progress, base_id, with_weights=False), _edit_of_run(place)
    elif place.is_file() and place.suffix == ".safetensors":
        found, edit = resolve(ModelRef.parse(_required(base)), progress, base_id, with_weights=False), store.load(place)
    else:
        published = resolve_published(ModelRef.parse(edited), progress)
        found = resolve(ModelRef.parse(_required(base or published.base)), progress, base_id)
        edit = difference(found.folder, published.folder, anatomy_of_config(found.folder), progress)
    return make_patch(found, anatomy_of_config(found.folder), edit, out, methods)


def _edit_of_run(folder: Path) -> Edit:
    if not (folder / EMBER_EDIT).is_file():
        raise RunNotFound(f"{folder} holds no edit of the embedding yet", hint="run it to the end")
    edit = store.load(folder / EMBER_EDIT)
    for path in sorted((folder / "edits").glob("[1-9]*-*.safetensors")):
        edit = edit.then(store.load(path))
    return edit


def _on_the_hub(model: Mapping[str, str]) -> str | None:
    """The base of a run at its commit; None for a folder or a file, of which a run does not keep the place."""
    commit = model.get("commit", "")
    return f"{model['repo_id']}@{commit}" if "repo_id" in model and len(commit) == _COMMIT else None


def _required(base: str | None) -> str:
    if not base:
        raise UsageError("the base is not known: an edited model does not say what it was made from", hint="name it with --base")
    return base
