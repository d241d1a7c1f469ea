"""Where a result goes, on which terms, and what lies there afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ember_hub.errors import UsageError

Form = Literal["model", "patch"]
Gating = Literal["auto", "manual"]
LONGEST = 96
_TAG = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$|[/.]$))[^\s~^:?*\[\\\x00-\x1f\x7f/.-][^\s~^:?*\[\\\x00-\x1f\x7f]*")
_SLUG = re.compile(r"[\w-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class PushOptions:
    """The terms of a push, as the user chose them."""

    is_private: bool = False
    create_pr: bool = False
    """Open a pull request, and leave the main branch as it is."""
    tags: tuple[str, ...] = ()
    """Git tags to set on the commit when it is there and verified."""
    collection: str | None = None
    """Slug of a collection (owner/name-id) to add the repository to."""
    yes: bool = False
    """The user knows that the base is gated or private, and wants a public result."""

    def require_sound(self) -> None:
        """Raises:
        UsageError: a name that git or the Hub does not take, or terms that exclude each other.
        """
        if bad := [tag for tag in self.tags if not _TAG.fullmatch(tag)]:
            raise UsageError(f"{bad[0]!r} cannot be a git tag", hint="use letters, digits, dots and hyphens, such as v1.0")
        if self.tags and self.create_pr:
            raise UsageError("a pull request has no commit on the main branch yet that a tag could name",
                             hint="leave out --tag, and set it when the pull request is merged")
        if self.collection is not None and not _SLUG.fullmatch(self.collection):
            raise UsageError(f"{self.collection!r} is not the slug of a collection",
                             hint="write it as in its address: owner/title-0123456789abcdef01234567")


@dataclass(frozen=True)
class Target:
    """A repository that may be written to. `head` is the commit that was looked at, None when it does not exist yet."""

    repo: str
    form: Form
    base: str
    concept: str
    options: PushOptions
    head: str | None
    gating: Gating | None = None
    """How a new repository shall ask for access, because the base does."""


@dataclass(frozen=True)
class Pushed:
    """What lies on the Hub, as it was verified there: `files` maps each path to its sha256."""

    repo: str
    commit: str
    url: str
    """Of the repository, or of the pull request."""
    files: Mapping[str, str]
    bytes: int
    """Of all files; those `copied` on the Hub, those `present` there before, and the rest, which was uploaded."""
    copied: int = 0
    present: int = 0
    sent: int = 0
    """Bytes that left this machine; where Xet carried them, at most that many, as it leaves out what the Hub has."""
    pull_request: str | None = None
    """The revision of the pull request, such as refs/pr/1."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def default_repo(user: str, base_name: str, concept: str, form: Form) -> str:
    """`user/base-ember-concept[-patch]`, cut to the Hub's limit. The base comes first: licences such as Llama's ask for it."""
    suffix = "-patch" if form == "patch" else ""
    base, subject = _plain(base_name.rpartition("/")[2]) or "model", _plain(concept).lower() or "concept"
    room = LONGEST - len(f"{user}/-ember-{suffix}")
    subject = subject[: max(room // 2, room - len(base))].rstrip("-.")
    return f"{user}/{base[: room - len(subject)].rstrip('-.')}-ember-{subject}{suffix}"


def page(repo: str) -> str:
    """The address of a repository."""
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{repo}"


def _plain(text: str) -> str:
    return re.sub(r"-{2,}", "-", re.sub(r"\.{2,}|[^\w.-]+", "-", text, flags=re.ASCII)).strip("-._")
