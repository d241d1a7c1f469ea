"""What the figures share: the palette, the sheet, the panel of curves, labels that do not touch, and the way to disk.

Drawn to be read on a phone: upright sheets, large type, names at the ends of the lines. The same report gives the same bytes.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ember_hub.evaluation import titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, RULE = "#222222", "#6B6B6B", "#E4E4E4"
WIDTH, DPI, TYPE = 9.0, 120, 21
"""Inches, pixels an inch, and points: on a phone the type is about as large as the text around the figure."""
HEAD = 1.55
"""Inches that title and subtitle take at the top of a sheet."""
_LINE = 0.335
"""Least distance of two labels, in inches."""
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@dataclass(frozen=True)
class Arm:
    """How one model state is drawn. Its label is set in `ink`, a darker tone where the colour is too light for type."""

    colour: str
    marker: str
    darker: str = ""

    @property
    def ink(self) -> str:
        return self.darker or self.colour


# Okabe and Ito's palette: told apart by colour-blind readers too; the marker says it once more. Drawn in this order.
ARMS: Mapping[str, Arm] = MappingProxyType({
    "never-known": Arm("#56B4E9", "X", "#2A7FB8"),
    "random-edit": Arm("#009E73", "D"),
    "rmu-only": Arm("#0072B2", "^"),
    "ember-only": Arm("#CC79A7", "v"),
    "base": Arm("#4D4D4D", "s"),
    "edited": Arm("#D55E00", "o"),
})


def arm(name: str) -> Arm:
    """How a model state is drawn; states that nobody foresaw share one colour and marker."""
    return ARMS.get(name) or Arm("#E69F00", "P", "#946600")


def label(name: str) -> str:
    """What stands beside a model state's line: its title, as far as there is room."""
    return printable(titles.state_title(name).removesuffix(" instead"), 11)


def in_order(arms: Sequence[str]) -> list[str]:
    """The states in the order in which they are drawn: the edited model last, on top of the others."""
    return sorted(arms, key=lambda name: [*ARMS].index(name) if name in ARMS else -1)


def sentence(title: str, most: int = 60) -> str:
    """A title as it stands at the beginning of a line, in characters that the typeface has."""
    return printable(titles.sentence(title), most)


def printable(text: str, most: int) -> str:
    """The text on one line of at most `most` characters, with a question mark for each that the typeface lacks."""
    # A missing glyph would be a warning and an empty box; a reordering character would turn the words around it.
    line = "".join(c if ord(c) in _glyphs() and unicodedata.category(c) not in _UNSEEN else "?" for c in " ".join(text.split()))
    return line if len(line) <= most else f"{line[:most - 1].rstrip()}…"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap())


@contextmanager
def sheet(path: Path, height: float, title: str, subtitle: str) -> Iterator[Figure]:
    """A white sheet of `height` inches with a title; when the block ends well it lies at `path`, whole, as a PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # The reader's own matplotlibrc must not change the picture.
        matplotlib.rcdefaults()
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        figure.text(0.022, 1 - 0.16 / height, title, fontsize=TYPE + 2, color=INK, va="top", weight="bold")
        figure.text(0.022, 1 - 0.66 / height, subtitle, fontsize=TYPE - 4, color=FAINT, va="top", linespacing=1.25)
        yield figure
        _save(canvas, path)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without a frame; the place in inches from the sheet's upper left corner."""
    tall = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / tall, width / WIDTH, height / tall))
    axes.tick_params(labelsize=TYPE - 3, labelcolor=FAINT, length=0, pad=8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def panel(figure: Figure, top: float, title: str, steps: str) -> Axes:
    """Accuracy between 0 and 1 against `steps`, with room for names on the right; 3.1 inches high, 4.35 with everything."""
    axes = axes_at(figure, 0.72, top + 0.5, WIDTH - 0.72 - 2.24, 3.1)
    axes.set_title(title, fontsize=TYPE - 2, color=INK, loc="left", pad=12, parse_math=False)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_xlabel(steps, fontsize=TYPE - 3, color=FAINT, labelpad=2)
    axes.grid(axis="y", color=RULE, linewidth=1.5)
    return axes


def draw_curve(axes: Axes, state: str, steps: Sequence[float], curve: Mapping[str, Any]) -> tuple[float, str, str]:
    """One state's values with the band of their intervals; returns the label of its end: height, name, colour."""
    look, is_own, every = arm(state), state == "edited", -(-len(steps) // 9)
    axes.fill_between(steps, curve["low"], curve["high"], color=look.colour, linewidth=0, alpha=0.22 if is_own else 0.09)
    axes.plot(steps, curve["value"], color=look.colour, marker=look.marker, markersize=13 if is_own else 9,
              markevery=((len(steps) - 1) % every, every), linewidth=5 if is_own else 3, clip_on=False, zorder=5 if is_own else 4)
    return curve["value"][-1], label(state), look.ink


def draw_level(axes: Axes, value: float, name: str) -> tuple[float, str, str]:
    """A level that every curve is compared with, `chance` dotted and others dashed; returns its label."""
    dashes: Any = (0, (1, 1.6)) if name == "chance" else (0, (5, 2.5))
    axes.axhline(value, color=FAINT, linewidth=2.5, linestyle=dashes, zorder=2)
    return value, name, FAINT


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the ends of their lines, moved apart where they would touch, with a thread to the end."""
    ends = sorted(ends, key=lambda end: end[0])
    box = axes.get_position()
    width, gap = box.width * WIDTH, _LINE / (box.height * axes.figure.get_figheight())
    start, stop, text = (1 + inches / width for inches in (0.05, 0.19, 0.23))
    for (value, name, colour), height in zip(ends, spread([end[0] for end in ends], gap), strict=True):
        axes.plot([start, stop], [value, height], color=colour, linewidth=1.5, transform=axes.transAxes,
                  clip_on=False, solid_capstyle="round")
        axes.text(text, height, name, color=colour, fontsize=TYPE, va="center_baseline", transform=axes.transAxes,
                  weight="bold" if name == label("edited") else "normal", parse_math=False)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights (ascending, in [0, 1]) moved as little as possible so that neighbours are `gap` apart.

    Least squares under an order constraint: pool adjacent violators. Source: Ayer et al. 1955.
    """
    pools: list[list[float]] = []
    for i, height in enumerate(heights):
        pools.append([height - i * gap])
        while len(pools) > 1 and sum(pools[-2]) / len(pools[-2]) > sum(pools[-1]) / len(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    means = [sum(pool) / len(pool) for pool in pools for _ in pool]
    top = max(0.0, 1 - (len(heights) - 1) * gap)
    return [min(max(mean, 0.0), top) + i * gap for i, mean in enumerate(means)]


def _save(canvas: Any, path: Path) -> None:
    """Write under a temporary name and rename; no time or version goes into the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            canvas.print_png(file, metadata={"Software": None})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
