"""How long the verification will take, from the work it is and the speed of this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import torch

from ember_hub.concepts.pack import ConceptPack, Split
from ember_hub.concepts.registry import never_known
from ember_hub.edits.edit import Edit
from ember_hub.evaluation.base import Attack, Cost
from ember_hub.evaluation.evidence import BASE, STRANGER
from ember_hub.evaluation.examination import PARTS, Part, Syllabus
from ember_hub.evaluation.language import Predictions, neutral_loss
from ember_hub.evaluation.subject import Subject
from ember_hub.progress import Quiet
from ember_hub.stages.verify import is_measured, missing, subject
from ember_hub.stages.workshop import Workshop

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

TRAINED = 5.0
"""A token that is trained on, in tokens that are read: forward, backward through activations and weights, update; small batches."""
WRITTEN = 3.0
"""A token that is generated in a small batch, in tokens that are read side by side."""
SENTENCES = 24


def announce(shop: Workshop) -> None:
    """Say what will be measured, and about how long it will take, unless it is done."""
    work, count = remaining(shop)
    if count:
        seconds = (work.read + TRAINED * work.trained + WRITTEN * work.written) / _reading_speed(shop)
        what = "1 measurement" if count == 1 else f"{count} measurements"
        shop.say("verify", f"{shop.settings.verify.battery} battery: {what} to make, {_about(seconds)}")


def remaining(shop: Workshop) -> tuple[Cost, int]:
    """What is still to be measured."""
    work, count = Cost(), 0
    subjects = {state: subject(shop, state) for state in (BASE, STRANGER)}
    for instrument in shop.instruments:
        states = shop.attacked_states() if isinstance(instrument, Attack) else (BASE, *shop.states())
        if isinstance(instrument, Attack) and not shop.syllabus.known["test"]["concept"]:
            continue
        for state in states:
            if not missing(shop, instrument, state) and not is_measured(shop, instrument, state):
                work += instrument.cost(subjects[STRANGER if state == STRANGER else BASE])
                count += 1
    return work, count


def prospect(pack: ConceptPack, seed: int) -> dict[str, Subject]:
    """The subjects of a run that has not begun, for what costs depend on: as if the base knew every answer."""
    def everything(split: Split) -> dict[Part, frozenset[str]]:
        return {part: frozenset(q.id for q in pack.asked("questions" if part == "concept" else part, split)) for part in PARTS}

    known: dict[Split, dict[Part, frozenset[str]]] = {"tune": everything("tune"), "test": everything("test")}
    nothing = Predictions(torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0))
    # No cost looks at the model.
    subject = Subject(cast("LoadedModel", None), Edit.none(), pack, Syllabus("letter", known), nothing, (), seed, Quiet())
    return {BASE: subject, STRANGER: subject.stranger(never_known())}


def _reading_speed(shop: Workshop) -> float:
    """Tokens that the model reads in a second here."""
    sentences = shop.pack.neutral_part("test")[:SENTENCES]
    tokens = sum(map(len, shop.loaded.tokenizer(list(sentences)).input_ids))
    neutral_loss(shop.loaded, sentences[:1])
    start = time.perf_counter()
    neutral_loss(shop.loaded, sentences)
    return tokens / max(1e-6, time.perf_counter() - start)


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
