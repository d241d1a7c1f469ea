"""The layer figure: at which depth of the network the concept's answers can be read off, before and after the edit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ember_hub.evaluation.figures.style import HEAD, draw_curve, draw_level, in_order, label_ends, panel, printable, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS, PANEL = 3, 4.5
_PROBES: Mapping[str, str] = MappingProxyType({
    "logit-lens": "Logit lens: read by the model's own head", "linear-probe": "Linear probe: read by a trained classifier"})


def layers_figure(report: Mapping[str, Any], path: Path) -> Path | None:
    """Draw accuracy on known concept questions against depth, one panel for each way to read a layer, as a PNG.

    Without such measurements nothing is written and None is returned.
    """
    probes = {name: states for name, states in report["layers"].items() if any(len(c["value"]) > 1 for c in states.values())}
    shown = [*probes][:PANELS]
    if not shown:
        return None
    with sheet(path, HEAD + PANEL * len(shown), "What the layers still hold",
               "known concept questions answered right from one layer\nbands: 95 % intervals") as figure:
        for place, name in enumerate(shown):
            title = _PROBES.get(name) or printable(name, 40)
            _draw(panel(figure, HEAD + place * PANEL, title, "after block"), probes[name])
    return path


def _draw(axes: Axes, states: Mapping[str, Mapping[str, Any]]) -> None:
    depth = max(len(curve["value"]) for curve in states.values())
    ends = [draw_curve(axes, state, range(1, len(states[state]["value"]) + 1), states[state]) for state in in_order([*states])]
    axes.set_xlim(1 - 0.04 * (depth - 1), depth + 0.04 * (depth - 1))
    step = max(1, -(-depth // 6))
    axes.set_xticks([1, *range(step, depth + 1, step)] if step > 2 else range(1, depth + 1, step))
    chance = next((curve["chance"] for curve in states.values() if curve["chance"] is not None), None)
    if chance is not None:
        ends.append(draw_level(axes, chance, "chance"))
    label_ends(axes, ends)
