"""The base's own card, kept below ours where its licence lets us.

What permissive licences and Creative Commons' attribution licences ask for is that the text stays recognizably somebody
else's: it goes into a section of its own that names where it comes from. Under any other licence the card is linked to.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ember_hub.source.ref import is_repo_id

PERMISSIVE = re.compile(r"(?:apache-2\.0|mit|isc|unlicense|cc0-1\.0|bsd(?:-\d-clause(?:-clear)?)?|cc-by(?:-sa)?-\d\.\d)")
"""Licences that allow passing the card's text on, with attribution."""
LONGEST = 30_000
"""Characters of a base's card that are kept; a longer one is cut and linked to."""
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n.*?^---[ \t]*\r?\n?", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)((?:\s+\"[^\"]*\")?)\)")
_ATTRIBUTE = re.compile(r"(?i)(<(?:img|a|source|video)\b[^>]*?\b(src|href)=[\"'])([^\"'>\s]+)")
_ACTIVE = re.compile(r"(?is)<(script|style|iframe|object|embed|form)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)")


def may_be_kept(licence: str) -> bool:
    """Whether a card under this licence id may be passed on as a part of another."""
    return PERMISSIVE.fullmatch(licence) is not None


def kept(card: str | None, licence: str, repo_id: str | None, commit: str | None) -> str | None:
    """The base's card as a part of ours: without metadata, one level down, its links leading to its own repository.

    Returns:
        None where there is none, its licence says nothing to that end, or its repository is not known.
    """
    if not card or not may_be_kept(licence) or not repo_id or not is_repo_id(repo_id):
        return None
    text = _ACTIVE.sub("", _FRONT_MATTER.sub("", card.replace("\r\n", "\n"), count=1)).strip()
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit("\n\n", 1)[0] + "\n\n[…]"
    home = f"https://huggingface.co/{repo_id}"
    at = commit if commit and re.fullmatch(r"[0-9a-f]{40}", commit) else "main"
    return _outside_code(text, lambda line: _demoted(_absolute(line, home, at))) or None


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Every line that is not code, changed; a fence left open is closed, so that nothing after it is code."""
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence:
            line = change(line)
        lines.append(line)
    return "\n".join([*lines, fence] if fence else lines).strip()


def _demoted(line: str) -> str:
    heading = re.match(r" {0,3}(#{1,6})(?=\s)", line)
    if heading:
        return "#" * min(6, len(heading[1]) + 2) + line[heading.end():]
    # An underlined heading would be of the first or second level; a section of ours would end with it.
    return "" if re.fullmatch(r" {0,3}(?:=+|-+)\s*", line) else re.sub(r"(?i)</?(?:details|summary)\b[^>]*>", "", line)


def _absolute(line: str, home: str, commit: str) -> str:
    def place(target: str, is_image: bool) -> str:
        if re.match(r"(?i)(?:https?|mailto):", target):
            return target
        if target.startswith("#"):
            return f"{home}{target}"
        if re.match(r"(?i)[a-z][a-z0-9+.-]*:|//|/", target):
            return home
        path = re.sub(r"^(?:\./)+", "", target)
        return f"{home}/{'resolve' if is_image else 'blob'}/{commit}/{path}"

    line = _LINK.sub(lambda m: f"{m[1]}[{m[2]}]({place(m[3], bool(m[1]))}{m[4]})", line)
    return _ATTRIBUTE.sub(lambda m: m[1] + place(m[3], m[2].lower() == "src"), line)
