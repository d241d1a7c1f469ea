"""The relearning figure: how quickly an attacker's training brings the concept back, next to the controls.

Drawn to be read on a phone: large type, names at the ends of the lines, no legend.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind readers too; the marker says it once more.
_ARMS: Mapping[str, tuple[str, str, str]] = MappingProxyType({
    "edited": ("this model", "#D55E00", "o"),
    "base": ("base", "#5A5A5A", "s"),
    "rmu-only": ("RMU alone", "#0072B2", "^"),
    "random-edit": ("random edit", "#009E73", "D"),
    "ember-only": ("EMBER alone", "#CC79A7", "v"),
})
_OTHER = ("#E69F00", "P")
_LEVELS: Mapping[str, str] = MappingProxyType({
    "relearn-paper": "Paper relearning", "relearn-strong": "Strong relearning"})
_INK, _FAINT = "#222222", "#8A8A8A"
_GAP = 0.078
"""Least distance of two labels, as a share of the axis."""
