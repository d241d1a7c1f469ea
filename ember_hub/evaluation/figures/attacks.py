"""The attack figure: what each attack brings back, the most first, with the controls under the same attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ember_hub.evaluation.figures import style
from ember_hub.evaluation.figures.style import ARMS, FAINT, HEAD, INK, TYPE, arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_ROW, _TITLE, _BAR, _LANES = 1.02, 0.2, 0.58, (0.8, 0.92)
"""Inches: a row, and the middles of what is in it; like values of controls are told apart by their lanes."""
_THICK, _TOUCH = 0.3, 0.024
_LEGEND, _FOOT, _BREAK = 0.45, 0.75, 0.7
_LEFT, _RIGHT = 0.3, 0.95
_DASHED, _DOTTED = (0, (5, 2.5)), (0, (1, 1.6))


@dataclass(frozen=True)
class Row:
    """One attack: the edited model's accuracy after it and those of the controls, and what is special about it."""

    title: str
    arms: Mapping[str, Mapping[str, Any]]
    is_counted: bool = True
    is_worst: bool = False
    remark: str = ""

    @classmethod
    def of(cls, attack: Mapping[str, Any]) -> Row:
        remark = ("hands the answers over" if attack["hands_over"] else "by definition" if attack["restores_by_definition"]
                  else "worst" if attack["is_worst"] else "")
        return cls(attack["title"], attack["arms"], remark in ("", "worst"), attack["is_worst"], remark)

    @property
    def controls(self) -> list[str]:
        return [state for state in self.arms if state != "edited"]


def attacks_figure(report: Mapping[str, Any], path: Path) -> Path | None:
    """Draw the edited model's accuracy on known concept questions after every measured attack as a PNG.

    Attacks that hand the answers over and those that undo the edit by definition stand apart. The same report gives the same bytes.
    Without measured attacks nothing is written and None is returned.
    """
    measured = [attack for attack in report["attacks"] if "edited" in attack["arms"]]
    # By share, not by accuracy: attacks that ask in another way have another chance level.
    rows = [Row.of(a) for a in sorted(
        measured, key=lambda a: (-(a["recovered"] or 0.0), not a["is_worst"], -a["arms"]["edited"]["value"]))]
    if not rows:
        return None
    counted, apart = [*_unattacked(report), *(r for r in rows if r.is_counted)], [r for r in rows if not r.is_counted]
    states = style.in_order(list(dict.fromkeys(state for row in [*counted, *apart] for state in row.controls)))[::-1]
    tall, legend = _ROW * len([*counted, *apart]) + (_BREAK if apart else 0), _LEGEND * -(-len(states) // 5) + 0.17
    subtitle = "known concept questions answered right · lines on the bars:\n95 % intervals · small marks: controls, same attack"
    with style.sheet(path, HEAD + legend + tall + _FOOT, "What each attack brings back", subtitle) as figure:
        _draw_legend(figure, states)
        axes = style.axes_at(figure, _LEFT, HEAD + legend, style.WIDTH - _LEFT - _RIGHT, tall)
        axes.set(xlim=(0, 1), ylim=(tall, 0), yticks=[])
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(axis="x", color=style.RULE, linewidth=1.5)
        for place, row in enumerate(counted):
            _draw(axes, place * _ROW, row)
        if apart:
            _draw_apart(axes, len(counted) * _ROW, apart)
        _draw_levels(axes, report)
    return path


def _unattacked(report: Mapping[str, Any]) -> list[Row]:
    """The accuracies without any attack, from which all the others are told."""
    scores = {s["stage"].removeprefix("control:"): s for s in report["scores"] if s["name"] == "concept_known"}
    found = {state: score for state, score in scores.items() if "+" not in state and not state.startswith("attack:")}
    return [Row("No attack", found)] if "edited" in found else []


def _draw_legend(figure: Figure, states: Sequence[str]) -> None:
    """The controls' marks and names, at most five on a line."""
    wide = style.WIDTH - _LEFT
    for line in range(0, len(states), 5):
        axes, right = style.axes_at(figure, _LEFT, HEAD + line // 5 * _LEGEND, wide, _LEGEND), 0.1
        axes.set_axis_off()
        axes.set(xlim=(0, wide), ylim=(0, 1))
        for state in states[line:line + 5]:
            _mark(axes, state, right, 0.5)
            text = axes.text(right + 0.17, 0.5, style.label(state), fontsize=TYPE - 4, color=INK, va="center_baseline",
                             parse_math=False)
            right = _right(text) + 0.35


def _draw(axes: Axes, top: float, row: Row) -> None:
    own, middle, colour = row.arms["edited"], top + _BAR, ARMS["edited"].colour
    _entitle(axes, top + _TITLE, row)
    face = {"color": colour} if row.is_counted else {"facecolor": "white", "edgecolor": colour, "hatch": "///", "linewidth": 1.5}
    axes.barh(middle, own["value"], _THICK, zorder=3, **face)
    axes.plot([own["low"], own["high"]], [middle, middle], color=INK, linewidth=2.5, zorder=4, solid_capstyle="butt")
    axes.text(1.02, middle, f"{own['value']:.2f}", fontsize=TYPE, color=colour, va="center", weight=_weight(row))
    if own["chance"] is not None:
        # For each row: an attack that asks in another way has another chance level.
        axes.plot([own["chance"]] * 2, [top + 0.36, top + _ROW], color=FAINT, linewidth=2.5, linestyle=_DOTTED, zorder=5)
    ends = [-1.0, -1.0]
    for state in sorted(row.controls, key=lambda state: row.arms[state]["value"]):
        value = row.arms[state]["value"]
        lane = 0 if value - ends[0] > _TOUCH else ends.index(min(ends))
        ends[lane] = value
        _mark(axes, state, value, top + _LANES[lane])


def _entitle(axes: Axes, height: float, row: Row) -> None:
    """The attack's title, cut to the sheet, and the remark after it."""
    def write(text: str, left: float, size: int, colour: str) -> Text:
        return axes.text(left, height, text, fontsize=size, color=colour, va="center_baseline", weight=_weight(row), zorder=7,
                         parse_math=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})

    remark = write(f"· {row.remark}" if row.remark else "", 0, TYPE - 5, ARMS["edited"].colour if row.is_worst else FAINT)
    title, room = write("", 0, TYPE - 3, INK), style.WIDTH - 0.15 - _LEFT - (_right(remark) if row.remark else 0)
    for most in range(60, 8, -1):
        title.set_text(style.sentence(row.title, most))
        if _right(title) + 0.1 < room:
            break
    remark.set_x((_right(title) + 0.1) / (style.WIDTH - _LEFT - _RIGHT))


def _draw_apart(axes: Axes, top: float, rows: Sequence[Row]) -> None:
    axes.axhline(top + 0.12, color=FAINT, linewidth=1.5)
    axes.text(0, top + 0.45, "Not counted in the worst case", fontsize=TYPE - 3, color=FAINT, va="center_baseline")
    for place, row in enumerate(rows):
        _draw(axes, top + _BREAK + place * _ROW, row)


def _draw_levels(axes: Axes, report: Mapping[str, Any]) -> None:
    """The level of the base, and the names of both levels below the axis."""
    base = next((s for s in report["scores"] if (s["name"], s["stage"]) == ("concept_known", "base")), None)
    if base is None:
        return
    axes.axvline(base["value"], color=FAINT, linewidth=2.5, linestyle=_DASHED, zorder=2)
    levels = sorted((value, name) for value, name in ((base["value"], "before"), (base["chance"], "chance")) if value is not None)
    is_close = len(levels) > 1 and levels[1][0] - levels[0][0] < 0.2
    for (value, name), side in zip(levels, ("right", "left") if is_close else ("center", "center"), strict=False):
        axes.text(value, axes.get_ylim()[0] + 0.62, name, fontsize=TYPE - 4, color=FAINT, ha=side, va="center_baseline")


def _mark(axes: Axes, state: str, across: float, down: float) -> None:
    axes.plot([across], [down], color=arm(state).colour, marker=arm(state).marker, markersize=11, markeredgecolor="white",
              markeredgewidth=1, clip_on=False, zorder=6)


def _right(text: Text) -> float:
    """Inches from the left margin to a text's right end."""
    return text.get_window_extent(text.figure.canvas.get_renderer()).x1 / style.DPI - _LEFT


def _weight(row: Row) -> str:
    return "bold" if row.is_worst else "normal"
