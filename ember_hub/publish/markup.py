"""Text from outside on its way into Markdown and HTML: harmless in both, readable, and without the paths of this machine.

Whatever comes from packs, models and command lines (titles, token texts, names) passes `escape`; only text made here is `Safe`.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_EDGE = r"(?<![\w./<~-])"
LOCAL_PATH = re.compile(rf"file:/+|{_EDGE}(?:~?/(?=[^\s/])|~(?=\w)|[A-Za-z]:\\)")
"""Where a path of this machine begins."""
_LONG_PATH = re.compile(rf"(?:file:/+|{_EDGE}(?:~\w*/|/(?=[^\s/]+/)|[A-Za-z]:\\))[^\s\"'`|,;:)\]]+")
_SPECIAL = re.compile(r"[\\`*\[\]<>&|{}#~$@]|(?<![^\W_])_|_(?![^\W_])|-{3,}|://|(?<=www)\.|(?<![\w.])/|^[-+=]"
                      r"|^\d+[.)](?=\s|$)")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Safe(str):
    """Text that is Markdown already."""


def escape(value: object) -> str:
    """The filter every value passes on its way into the Markdown: harmless there, in HTML and in a table cell."""
    if isinstance(value, Safe):
        return value
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return _SPECIAL.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0]), one_line(str(value)))


def one_line(text: str) -> str:
    """The text with its line breaks gone, invisible and reordering characters shown, and local paths cut to a name."""
    text = _LONG_PATH.sub(lambda match: f"path/to/{PurePath(match[0].replace(chr(92), '/')).name}", text)
    text = re.sub(r"[ \t\r\n\v\f\x85\u2028\u2029]+", " ", text)
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _INVISIBLE else c for c in text)


def visible(text: object) -> str:
    """A token's text as it can be told from others: spaces at its ends shown."""
    return re.sub(r"^ | $", "␣", one_line(str("not recorded" if text is None else text))) or "(empty)"


def code(text: object) -> Safe:
    """A token or file name in the Markdown's typewriter face."""
    return Safe(f"<code>{escape(visible(text))}</code>")


def portable(command: str) -> str:
    """A command line that makes sense on other machines, quoted where a shell needs it."""
    try:
        words = [one_line(word) for word in shlex.split(command)]
    except ValueError:
        words = one_line(command).split()
    return LOCAL_PATH.sub("", " ".join(w if re.fullmatch(r"[\w@%+=:,./-]+", w) else shlex.quote(w) for w in words))


def block(command: str) -> Safe:
    """A command as a fenced block that it cannot leave."""
    line = portable(command)
    fence = "`" * max(3, *(len(run) + 1 for run in ["``", *re.findall("`+", line)]))
    return Safe(f"{fence}bash\n{line}\n{fence}")


def table(header: Sequence[object], rows: Iterable[Sequence[object]], left: int = 1) -> Safe:
    """A Markdown table whose first `left` columns are text and the others numbers; empty without rows."""
    ruler = [":--" if i < left else ":-:" for i in range(len(header))]
    lines = [[*map(escape, row)] for row in rows]
    whole = [[*map(escape, header)], ruler, *lines] if lines else []
    return Safe("\n".join(f"| {' | '.join(line)} |" for line in whole))


def number(value: float | None, unit: str = "accuracy") -> Safe:
    """Two digits for accuracies, three for the rest, a dash for nothing."""
    if value is None or value != value:
        return Safe("–")
    return Safe(f"{value:.2f}" if unit == "accuracy" else f"{value:.3f}")


def limit(value: float | None) -> Safe:
    """A limit or a value beside it: four digits, so that what fails by little does not read as if it held."""
    return Safe("–" if value is None else f"{value:.4g}")


def papers(reference: str) -> list[tuple[str, str | None]]:
    """A reference in pieces: papers on arXiv with their number, and the text between them with None."""
    pieces = re.split(r"arXiv[: ]?(\d{4}\.\d{4,5})", reference)
    return [(f"arXiv {piece}", piece) if place % 2 else (piece, None) for place, piece in enumerate(pieces) if piece]


def reference(text: str) -> Safe:
    """A reference in Markdown, with a link to each paper on arXiv."""
    return Safe("".join(f"[{piece}](https://arxiv.org/abs/{paper})" if paper else escape(piece) for piece, paper in papers(text)))
