"""The cards in model_cards/ are what the code renders from the reports beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ember_hub.publish.card import render, validate

CARDS = sorted((Path(__file__).parent.parent / "model_cards").glob("*/report.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.parent.name)
def test_a_card_is_what_its_report_says(path: Path) -> None:
    report = json.loads(path.read_text())
    for form in ("model", "patch"):
        card = path.parent / f"{form}.md"
        assert card.read_text() == render(report, form)
        validate(card.read_text())


def test_there_is_a_card_of_a_real_run() -> None:
    assert CARDS
