"""A model as a user names it: a repository on the Hub, a checkpoint folder, or a GGUF file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ember_hub.errors import ModelNotFound

Kind = Literal["hub", "folder", "gguf"]
_REPO_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]*", re.ASCII)
_WAYS = "name a model as org/name, org/name@revision, a checkpoint folder or a .gguf file"


@dataclass(frozen=True)
class ModelRef:
    """Where a model is; nothing is downloaded or opened yet."""

    kind: Kind
    location: str
    """The repository id, or the absolute path of the folder or file."""
    revision: str | None = None

    @property
    def name(self) -> str:
        """The name to show and to build others from: the last part only, never a private path."""
        path = Path(self.location)
        name = path.stem if self.kind == "gguf" else path.name
        return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "model"

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read `org/name[@revision]`, a folder or a .gguf file.

        What exists on disk wins over a repository of the same name.

        Raises:
            ModelNotFound: it is none of these, or a path where nothing is.
        """
        text = text.strip()
        found = _on_disk(text)
        if found is not None:
            return found
        if _looks_like_path(text):
            raise ModelNotFound(f"{text} does not exist", hint=f"check the path; {_WAYS}")
        repo_id, at, revision = text.partition("@")
        if not is_repo_id(repo_id) or (at and not _is_revision(revision)):
            raise ModelNotFound(f"{text!r} names no model", hint=_WAYS)
        return cls("hub", repo_id, revision or None)


def is_repo_id(text: str) -> bool:
    """Whether the text can be the id of a Hub repository."""
    name = text.rpartition("/")[2]
    return (_REPO_ID.fullmatch(text) is not None and len(text) <= 96 and "--" not in text and ".." not in text
            and not name.endswith((".", "-", ".git")))


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and ".." not in text


def _on_disk(text: str) -> ModelRef | None:
    path = Path(text).expanduser() if text else None
    if path is None or not path.exists():
        return None
    path = path.resolve()
    if path.is_dir():
        return ModelRef("folder", str(path))
    if path.suffix.lower() == ".gguf":
        return ModelRef("gguf", str(path))
    raise ModelNotFound(f"{text} is a file, but not a .gguf file", hint=f"give the folder it is in; {_WAYS}")


def _looks_like_path(text: str) -> bool:
    # A revision may contain slashes (refs/pr/1), a repository id only one.
    place = text.partition("@")[0]
    return (place.startswith((".", "~", "/")) or place.lower().endswith(".gguf")
            or place.count("/") > 1 or "\\" in place)
