"""The relearning figure: how quickly an attacker's training brings the concept back, next to the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ember_hub.evaluation.figures.style import HEAD, draw_curve, draw_level, in_order, label_ends, panel, sentence, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS, PANEL = 3, 4.5
_LEVELS: Mapping[str, str] = MappingProxyType({
    "relearn-paper": "Paper relearning", "relearn-strong": "Strong relearning", "relearn-lora": "LoRA relearning",
    "relearn-lora-strong": "Strong LoRA relearning", "benign": "Training on harmless text"})


def relearning_figure(report: Mapping[str, Any], path: Path) -> Path | None:
    """Draw accuracy on known concept questions against epochs of training, one panel for each training attack, as a PNG.

    Of more than three attacks, the three after which the edited model knows most. The same report gives the same bytes. Without
    curves nothing is written and None is returned.
    """
    curves = report["curves"]
    levels = list(dict.fromkeys(curve["level"] for curve in curves))
    if not levels:
        return None
    shown = _worst(levels, curves)
    bands = "bands: 95 % intervals" + (f" · the worst {len(shown)} of {len(levels)}" if len(shown) < len(levels) else "")
    subtitle = f"while each model is trained as an attacker would\n{bands}"
    titles = _LEVELS | {attack["name"]: attack["title"] for attack in report.get("attacks", ())}
    with sheet(path, HEAD + PANEL * len(shown), "Known concept questions answered right", subtitle) as figure:
        for place, level in enumerate(shown):
            axes = panel(figure, HEAD + place * PANEL, sentence(titles.get(level, level), 44), "epochs")
            _draw(axes, [curve for curve in curves if curve["level"] == level], report)
    return path


def _worst(levels: Sequence[str], curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """The attacks that fit on the sheet, the gentle ones first."""
    ends = {curve["level"]: curve["value"][-1] for curve in curves if curve["arm"] == "edited"}
    worst = sorted(levels, key=lambda level: -ends.get(level, 0.0))[:PANELS]
    return sorted(worst, key=lambda level: [*_LEVELS, *levels].index(level))


def _draw(axes: Axes, curves: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    by = {curve["arm"]: curve for curve in curves}
    ends = [draw_curve(axes, state, by[state]["epochs"], by[state]) for state in in_order([*by])]
    last = int(max(max(curve["epochs"]) for curve in curves))
    axes.set_xlim(-0.04 * last, last * 1.04)
    axes.set_xticks(range(0, last + 1, max(1, -(-last // 8))))
    before = next((s for s in report["scores"] if (s["name"], s["stage"]) == ("concept_known", "base")), None)
    if before is not None:
        ends.append(draw_level(axes, before["value"], "before"))
        if before["chance"] is not None:
            ends.append(draw_level(axes, before["chance"], "chance"))
    label_ends(axes, ends)
