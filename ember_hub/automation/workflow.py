"""Writes a scheduled workflow for GitHub, and the file that says what it watches, into a repository folder.

The workflow calls a reusable one; the user's words are in the TOML file alone and never become part of a script.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from ember_hub.automation.configuration import Configuration, as_toml
from ember_hub.automation.jobs import require_portable
from ember_hub.automation.work import Recipe
from ember_hub.errors import AutomationError, ConfigError

WORKFLOW, CONFIG = ".github/workflows/ember-watch.yml", ".github/ember-watch.toml"
REUSABLE = ".github/workflows/watch.yml"
_SOURCE = re.compile(r"([A-Za-z0-9-]+/[\w.-]+)@([\w][\w./-]*)", re.ASCII)


def workflow_files(found: Configuration, recipe: Recipe, source: str) -> dict[str, str]:
    """Content of each file, by its path in the repository; `source` is OWNER/REPOSITORY@REF of ember-hub on GitHub.

    Raises:
        ConfigError: `source` is not of this form.
        AutomationError: the recipe needs a folder of this machine.
    """
    require_portable(recipe)
    match = _SOURCE.fullmatch(source)
    if not match:
        raise ConfigError(f"{source!r} names no version of ember-hub on GitHub", hint="write --uses OWNER/ember-hub@COMMIT")
    template = files("ember_hub.automation").joinpath("templates/ember-watch.yml").read_text(encoding="utf-8")
    return {WORKFLOW: template.replace("__USES__", f"{match[1]}/{REUSABLE}@{match[2]}"), CONFIG: as_toml(found, recipe)}


def write(folder: Path, contents: Mapping[str, str], *, overwrite: bool) -> list[Path]:
    """Write what is not there yet; all or nothing. The paths that were written.

    Raises:
        AutomationError: a file is there with another content and `overwrite` is false, or the folder cannot be written to.
    """
    if not folder.is_dir():
        raise AutomationError(f"{folder} is no folder", hint="give the folder of the repository with --repo-folder")
    try:
        wanted = {folder / path: text for path, text in contents.items()}
        changed = {path: text for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text}
        if (other := [path for path in changed if path.exists()]) and not overwrite:
            raise AutomationError(f"{other[0]} is there with another content", hint="look at it, then overwrite it with --yes")
        for path, text in changed.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    except OSError as error:
        raise AutomationError(f"{folder} cannot be written to: {error.strerror}", hint="check its permissions") from error
    return list(changed)
