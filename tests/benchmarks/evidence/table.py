"""The table of what was measured, and what it says of the claim, from the kept pieces alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.evaluation.score import bootstrap
from ember_hub.evaluation.verdict import harmonic_mean, kept

ARMS = {"base": "base", "ember": "EMBER alone", "rmu": "RMU alone", "ember+rmu": "RMU after EMBER",
        "random+rmu": "RMU after a random edit"}
LEVELS = {"published": "relearned, as published", "lora": "relearned, LoRA", "strong": "relearned, strong LoRA"}
COLUMNS = {"concept_known": "concept", "concept_probability": "p(right)", "near_domain_known": "near-domain",
           "general_known": "MMLU", "neutral_loss": "neutral, nats", "valid_mass_concept": "mass, concept",
           "valid_mass_other": "mass, other"}
AT_MOST = 0.5
"""What is asked of EMBER before a baseline: to regain at most this share of what the baseline alone regains.

The paper reports up to half less; that of every concept is a stricter test.
"""
LOSS = 0.05
"""And to lose less specificity than this."""


def table(folder: Path) -> str:
    """Markdown: one table for each concept of a model, and some lines on the claim."""
    lines: list[str] = []
    for concept in sorted(p for p in folder.glob("*") if p.is_dir()):
        states = {arm: _read(concept / f"state-{arm}.json") for arm in ARMS}
        attacked = {(arm, level): _read(concept / f"relearned-{level}-{arm}.json") for arm in ARMS for level in LEVELS}
        reached = frozenset(_piece(concept, "rows").get("reached", ()))
        lines += [f"**{concept.name}**", "", *_table(states, attacked), "", *_about(concept)]
        lines += [*_claim(states, attacked, reached), *_seeds(concept), ""]
    return "\n".join(lines)


def _piece(concept: Path, name: str) -> dict[str, Any]:
    path = concept / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read(path: Path) -> Measured | None:
    return Measured.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _table(states: Mapping[str, Measured | None], attacked: Mapping[tuple[str, str], Measured | None]) -> Iterator[str]:
    yield f"| | {' | '.join((*COLUMNS.values(), *LEVELS.values()))} |"
    yield f"|:--|{':-:|' * (len(COLUMNS) + len(LEVELS))}"
    for arm, title in ARMS.items():
        cells = [_cell(states[arm], name) for name in COLUMNS]
        cells += [_cell(attacked[arm, level], "concept_known") for level in LEVELS]
        yield f"| {title} | {' | '.join(cells)} |"


def _cell(measured: Measured | None, name: str) -> str:
    reading = measured.named(name) if measured else None
    if reading is None:
        return "–"
    score = reading.score("")
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"


def _about(concept: Path) -> Iterator[str]:
    """What decided the edits, and how long the pieces took."""
    found = {name: _piece(concept, name) for name in ("rows", "strength", "settings")}
    if all(found.values()):
        rmu = ", ".join(f"{key} {found['settings']['settings'][key]:.3g}" for key in ("steering", "learning_rate", "anchor_weight"))
        passed = {True: "passes the gates on the tune split", False: "**passes no gate on the tune split**",
                  None: "was not searched"}[found["settings"]["passed"]]
        yield f"{len(found['rows']['tokens'])} rows at strength {found['strength']['strength']:g}; RMU ({rmu}) {passed}."
    pieces = [json.loads(path.read_text(encoding="utf-8")) for path in concept.rglob("*.json")]
    yield f"{sum(piece['seconds'] for piece in pieces) / 60:.0f} minutes on the machine that measured it."


def _claim(states: Mapping[str, Measured | None], attacked: Mapping[tuple[str, str], Measured | None], reached: frozenset[str]
           ) -> Iterator[str]:
    """What RMU after EMBER regains against what RMU alone regains, in pairs; and what it costs in specificity."""
    for level, title in LEVELS.items():
        pairs = [(states[arm], attacked[arm, level]) for arm in ("rmu", "ember+rmu")]
        if any(before is None or after is None for before, after in pairs):
            continue
        rmu, both = (_regained(before, after) for before, after in pairs)
        yield f"- {title[0].upper()}{title[1:]}: {_compared(rmu, both)}. At most half: {_holds(rmu, both)}."
        for those, what in ((reached, "that hold an edited token"), (rmu.keys() - reached, "that hold none")):
            here = those & rmu.keys()
            if here:
                yield f"  - {len(here)} questions {what}: {_compared(_only(rmu, here), _only(both, here))}."
        before, after = states["random+rmu"], attacked["random+rmu", level]
        if before and after:
            yield f"  - Is it EMBER? {_compared(_regained(before, after), both, 'random+rmu')}."
    alone, both = (_specificity(states["base"], states[arm]) for arm in ("rmu", "ember+rmu"))
    if alone is not None and both is not None:
        verdict = "holds" if alone - both < LOSS else "does not hold"
        yield f"- Specificity: RMU alone {alone:.3f}, RMU after EMBER {both:.3f}. A loss under 0.05: {verdict}."


def _seeds(concept: Path) -> Iterator[str]:
    """The claim at the first level again, for every seed with which its arms were trained and relearned, and for their mean."""
    folders = [concept, *sorted(concept.glob("seed-*"))]
    for arm in ("rmu", "random+rmu"):
        found = [pair for pair in ((_gains(folder, arm), _gains(folder, "ember+rmu")) for folder in folders) if all(pair)]
        if len(found) > 1:
            each = "; ".join(f"{one:+.2f} and {both:+.2f}" for one, both in (map(_mean, pair) for pair in found))
            one, both = ({i: _mean({seed: gains[i] for seed, gains in enumerate(of_arm)}) for i in of_arm[0]}
                         for of_arm in zip(*found, strict=True))
            yield f"- LoRA, {len(found)} seeds: {ARMS[arm]} and RMU after EMBER regain {each}. Means: {_compared(one, both, arm)}."


def _gains(folder: Path, arm: str) -> dict[str, float]:
    before, after = _read(folder / f"state-{arm}.json"), _read(folder / f"relearned-lora-{arm}.json")
    return _regained(before, after) if before and after else {}


def _mean(values: Mapping[Any, float]) -> float:
    return sum(values.values()) / len(values)


def _compared(without: Mapping[str, float], both: Mapping[str, float], arm: str = "rmu") -> str:
    one, other = (np.array([gains[i] for i in sorted(without)]) for gains in (without, both))
    low, high = bootstrap([one, other], lambda a, b: b.mean(axis=1) - a.mean(axis=1))
    share = f", {other.mean() / one.mean():.2f} of it" if one.mean() > 0 else ""
    return (f"{ARMS[arm]} {one.mean():+.2f}, RMU after EMBER {other.mean():+.2f}{share} "
            f"(difference {other.mean() - one.mean():+.2f} [{low:+.2f}, {high:+.2f}])")


def _holds(rmu: Mapping[str, float], both: Mapping[str, float]) -> str:
    one, other = sum(rmu.values()), sum(both.values())
    return "holds" if one > 0 and other <= AT_MOST * one else "does not hold"


def _only(gains: Mapping[str, float], ids: frozenset[str]) -> dict[str, float]:
    return {i: gains[i] for i in ids}


def _regained(before: Measured | None, after: Measured | None) -> dict[str, float]:
    """Gain of each question, by its id."""
    one, other = _reading(before, "concept_known"), _reading(after, "concept_known")
    return {i: other.values[i] - value for i, value in one.values.items()}


def _reading(measured: Measured | None, name: str) -> Reading:
    reading = measured.named(name) if measured else None
    assert reading is not None, f"no {name} in this piece"
    return reading


def _specificity(base: Measured | None, measured: Measured | None) -> float | None:
    """Harmonic mean of what is kept of the near domain and of general knowledge, above chance; as in every verdict."""
    shares = []
    for name in ("near_domain_known", "general_known"):
        before, after = (state.named(name) if state else None for state in (base, measured))
        if before is None or after is None:
            return None
        shares.append(kept(after.mean, before.mean, before.chance or 0.0))
    return None if None in shares else harmonic_mean(shares)
