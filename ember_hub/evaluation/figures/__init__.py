"""The figures of a report, each a PNG for people, drawn from the report alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ember_hub.evaluation.figures.attacks import attacks_figure
from ember_hub.evaluation.figures.layers import layers_figure
from ember_hub.evaluation.figures.relearning import relearning_figure
from ember_hub.evaluation.figures.tokens import tokens_figure

__all__ = ["FIGURES", "attacks_figure", "draw_figures", "layers_figure", "relearning_figure", "tokens_figure"]

FIGURES: Mapping[str, Callable[[Mapping[str, Any], Path], Path | None]] = MappingProxyType({
    "attacks": attacks_figure, "relearning": relearning_figure, "layers": layers_figure, "tokens": tokens_figure})


def draw_figures(report: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Draw every figure that the report has something for, as `folder`/NAME.png; the paths by name."""
    drawn = {name: draw(report, folder / f"{name}.png") for name, draw in FIGURES.items()}
    return {name: path for name, path in drawn.items() if path is not None}
