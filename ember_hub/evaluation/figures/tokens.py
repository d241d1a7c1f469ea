"""The token figure: how far each edited row moved, against how specific its token is to the concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ember_hub.evaluation.figures.style import ARMS, FAINT, HEAD, INK, RULE, TYPE, WIDTH, axes_at, printable, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS, _TRIED = 18, 90
_DOT = 11.0
"""Points across."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def tokens_figure(report: Mapping[str, Any], path: Path) -> Path | None:
    """Draw the edited tokens by edit magnitude μ = ‖Δe‖ and TF-IDF, with the texts of the most extreme, as a PNG.

    Without tokens of which both are known nothing is written and None is returned.
    """
    tokens = [t for t in report["tokens"] if t["mu"] is not None and t["tfidf"] is not None]
    if not tokens:
        return None
    subtitle = f"{len(tokens):,} edited rows of the input embedding, each a dot\nthe most extreme are named"
    with sheet(path, HEAD + 7.2, "Edited tokens: how far, how specific", subtitle) as figure:
        axes = axes_at(figure, 1.15, HEAD + 0.1, WIDTH - 1.15 - 0.35, 6.1)
        axes.set_xlabel("specific to the concept (TF-IDF) →", fontsize=TYPE - 3, color=FAINT, labelpad=6)
        axes.set_ylabel("moved (μ) →", fontsize=TYPE - 3, color=FAINT, labelpad=6)
        axes.grid(color=RULE, linewidth=1.5)
        _draw(axes, tokens)
    return path


def _draw(axes: Axes, tokens: Sequence[Mapping[str, Any]]) -> None:
    values = np.array([(t["tfidf"], t["mu"]) for t in tokens], dtype=float)
    axes.scatter(values[:, 0], values[:, 1], s=_DOT**2, color=ARMS["edited"].colour, alpha=0.65, linewidths=0, zorder=3)
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    span[span == 0] = 1.0
    axes.set_xlim(low[0] - 0.06 * span[0], low[0] + 1.14 * span[0])
    axes.set_ylim(low[1] - 0.06 * span[1], low[1] + 1.08 * span[1])
    axes.locator_params(nbins=5)
    order, names = _extremes(tokens, (values - np.median(values, axis=0)) / span)
    renderer, dots = axes.figure.canvas.get_renderer(), axes.transData.transform(values)
    texts = [axes.text(0, 0, name, fontsize=TYPE - 3, color=INK, parse_math=False) for name in names]
    sizes = [(box.width, box.height) for box in (text.get_window_extent(renderer) for text in texts)]
    placed = place(dots, order, sizes, tuple(axes.bbox.extents), _DOT * axes.figure.dpi / 72 / 2 + 3)
    shown = dict([*placed.items()][:_LABELS])
    for i, text in enumerate(texts):
        if i in shown:
            left, bottom, _, top = shown[i]
            text.set(position=axes.transData.inverted().transform((left, (bottom + top) / 2)), va="center")
        else:
            text.remove()


def _extremes(tokens: Sequence[Mapping[str, Any]], places: np.ndarray) -> tuple[list[int], list[str]]:
    """Tokens to name, the farthest from the middle first, each text once; without the spaces around them."""
    chosen: dict[str, int] = {}
    for i in np.argsort(-(places**2).sum(axis=1), kind="stable")[:_TRIED]:
        chosen.setdefault(printable(tokens[i]["text"], 16) or "(space)", int(i))
    return [*chosen.values()], [*chosen]


def place(dots: np.ndarray, order: Sequence[int], sizes: Sequence[tuple[float, float]], frame: Box, reach: float) -> dict[int, Box]:
    """Where labels go, by position in `order`: beside their dot and clear of every other, in the frame, none on another.

    Earlier ones have the choice; a label for which no side is free is left out.

    Args:
        order: index of each label's dot.
        reach: half a dot and a little air.
    """
    placed: dict[int, Box] = {}
    for label, (dot, (width, height)) in enumerate(zip(order, sizes, strict=True)):
        x, y = dots[dot]
        corners = [(x + reach, y - height / 2), (x - reach - width, y - height / 2), (x - width / 2, y + reach),
                   (x - width / 2, y - reach - height)]
        others = np.delete(dots, dot, axis=0)
        for left, bottom in corners:
            box = (left, bottom, left + width, bottom + height)
            if _is_free(box, others, frame, reach) and not any(_touch(box, other) for other in placed.values()):
                placed[label] = box
                break
    return placed


def _is_free(box: Box, others: np.ndarray, frame: Box, reach: float) -> bool:
    """Whether a label lies in the frame, clear of the dots of others, and not beside one as if it were that dot's."""
    left, bottom, right, top = box
    x, y = others[:, 0], others[:, 1]
    covers = (x > left - 2 * reach) & (x < right + 2 * reach) & (y > bottom - reach) & (y < top + reach)
    return left >= frame[0] and bottom >= frame[1] and right <= frame[2] and top <= frame[3] and not covers.any()


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
