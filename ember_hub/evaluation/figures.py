"""The relearning figure: how quickly an attacker's training brings the concept back, next to the controls.

Drawn to be read on a phone: large type, names at the ends of the lines, no legend.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too; the marker says it once more.
_ARMS: Mapping[str, tuple[str, str, str]] = MappingProxyType({
    "random-edit": ("random edit", "#009E73", "D"),
    "rmu-only": ("RMU alone", "#0072B2", "^"),
    "ember-only": ("EMBER alone", "#CC79A7", "v"),
    "base": ("base", "#4D4D4D", "s"),
    "edited": ("this model", "#D55E00", "o"),
})
_OTHER = ("#B8860B", "P")
_LEVELS: Mapping[str, str] = MappingProxyType({
    "relearn-paper": "Paper relearning", "relearn-strong": "Strong relearning"})
_INK, _FAINT = "#222222", "#767676"
_SIZE, _DPI = (12.0, 6.2), 100
_TYPE = 21
_GAP = 0.088
"""Least distance of two labels, as a share of the axis."""


def relearning_figure(report: Mapping[str, Any], path: Path) -> Path | None:
    """Draw accuracy on known concept questions against epochs of relearning, one panel for each level, as a PNG.

    The same report gives the same bytes. Without curves nothing is written and None is returned.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = list(dict.fromkeys(curve["level"] for curve in report["curves"]))
    if not levels:
        return None
    with matplotlib.rc_context():
        # The reader's own matplotlibrc must not change the picture.
        matplotlib.rcdefaults()
        figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        figure.text(0.018, 0.975, "Known concept questions answered right", fontsize=_TYPE + 2, color=_INK, va="top",
                    weight="bold")
        figure.text(0.018, 0.893, "while each model is trained on text about the concept · bands: 95 % intervals",
                    fontsize=_TYPE - 3, color=_FAINT, va="top")
        for place, level in enumerate(levels):
            axes = _panel(figure, place, len(levels), level)
            _draw(axes, [curve for curve in report["curves"] if curve["level"] == level], report)
        _save(canvas, path)
    return path


def _panel(figure: Figure, place: int, panels: int, level: str) -> Axes:
    left, labels, share = 0.058, 0.186, (1 - 0.058) / panels
    axes = figure.add_axes((left + place * share, 0.135, share - labels, 0.6))
    axes.set_title(_LEVELS.get(level, _printable(level)), fontsize=_TYPE, color=_INK, loc="left", pad=14)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if place == 0 else ["", "", ""])
    axes.set_xlabel("epochs", fontsize=_TYPE - 2, color=_FAINT, labelpad=2)
    axes.tick_params(labelsize=_TYPE - 2, labelcolor=_FAINT, length=0, pad=8)
    axes.grid(axis="y", color="#E4E4E4", linewidth=1.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def _draw(axes: Axes, curves: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    order = [*_ARMS]
    ends: list[tuple[float, str, str]] = []
    for curve in sorted(curves, key=lambda c: order.index(c["arm"]) if c["arm"] in order else -1):
        name, colour, marker = _ARMS.get(curve["arm"], (_printable(curve["arm"]), *_OTHER))
        is_own = curve["arm"] == "edited"
        axes.fill_between(curve["epochs"], curve["low"], curve["high"], color=colour, linewidth=0,
                          alpha=0.22 if is_own else 0.09)
        axes.plot(curve["epochs"], curve["value"], color=colour, marker=marker, markersize=13 if is_own else 9,
                  linewidth=5 if is_own else 3, clip_on=False, zorder=5 if is_own else 4)
        ends.append((curve["value"][-1], name, colour))
    last = max(max(curve["epochs"]) for curve in curves)
    axes.set_xlim(-0.04 * last, last * 1.04)
    axes.set_xticks(range(int(last) + 1))
    for value, name, dashes in _lines(report):
        axes.axhline(value, color=_FAINT, linewidth=2.5, linestyle=dashes, zorder=2)
        ends.append((value, name, _FAINT))
    _label(axes, ends)


def _lines(report: Mapping[str, Any]) -> list[tuple[float, str, Any]]:
    """Height, name and dashes of the two lines every curve is compared with."""
    before = next((s for s in report["scores"] if (s["name"], s["stage"]) == ("concept_known", "base")), None)
    if before is None:
        return []
    lines: list[tuple[float, str, Any]] = [(before["value"], "before", (0, (5, 2.5)))]
    return lines if before["chance"] is None else [*lines, (before["chance"], "chance", (0, (1, 1.6)))]


def _label(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the ends of their lines, moved apart where they would touch, with a thread to the end."""
    ends = sorted(ends, key=lambda end: end[0])
    width = axes.get_position().width
    start, stop, text = (1 + offset / width for offset in (0.0034, 0.0157, 0.0194))
    for (value, name, colour), height in zip(ends, spread([end[0] for end in ends], _GAP), strict=True):
        axes.plot([start, stop], [value, height], color=colour, linewidth=1.5, transform=axes.transAxes,
                  clip_on=False, solid_capstyle="round")
        axes.text(text, height, name, color=colour, fontsize=_TYPE, va="center_baseline", transform=axes.transAxes,
                  weight="bold" if name == _ARMS["edited"][0] else "normal", parse_math=False)


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


def _printable(name: str) -> str:
    # The figure's typeface has no glyph for every script; a missing one is a warning and an empty box.
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)[:11]


def _save(canvas: Any, path: Path) -> None:
    """Write under a temporary name and rename; no time or version goes into the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            canvas.print_png(file, metadata={"Software": None})
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
