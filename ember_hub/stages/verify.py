"""Every model state under every evaluation, and every attack on every state, one file for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from ember_hub.concepts.registry import never_known
from ember_hub.evaluation.base import Attack, Evaluation, Instrument
from ember_hub.evaluation.evidence import BASE, STRANGER, Evidence
from ember_hub.evaluation.language import predictions
from ember_hub.evaluation.reading import Measured
from ember_hub.evaluation.subject import Subject
from ember_hub.stages.origin import origin
from ember_hub.stages.workshop import BEFORE, NEUTRAL, TUNE, Workshop


def examine_base(shop: Workshop) -> None:
    """Which format suits the base, and what it knows."""
    def work() -> None:
        syllabus = shop.examiner().syllabus()
        shop.keep_predictions(predictions(shop.loaded, shop.pack.neutral_part("test")))
        shop.run.write_json(BEFORE, {**origin(shop), "syllabus": syllabus.to_json()})

    shop.run.stage("before", (), (BEFORE, NEUTRAL), work)
    known = shop.syllabus.known["test"]
    asked = len(shop.pack.asked("questions", "test"))
    shop.say("before", f"the base knows {len(known['concept'])} of {asked} concept questions "
                       f"({shop.syllabus.format} format, test split) · {shop.run.folder / BEFORE}")


def look_at_base(shop: Workshop) -> None:
    """The base on the tune split, with which a search compares its candidates."""
    shop.run.stage("tune", ("before",), (TUNE,),
                   lambda: shop.run.write_json(TUNE, shop.examiner().tune(shop.syllabus).to_json()))


def examine(shop: Workshop) -> None:
    """Every evaluation of the battery on the base, the result and the controls."""
    kinds = [i for i in shop.instruments if isinstance(i, Evaluation)]
    for instrument in kinds:
        for state in (BASE, *shop.states()):
            _measure(shop, instrument, state)
    shop.say("states", f"{len(shop.states()) + 1} model states under {len(kinds)} evaluations · "
                       f"{shop.run.folder / 'reports/states'}")


def attack(shop: Workshop) -> None:
    """Every attack of the battery on the result, the controls, the base, and the base with a concept that it never knew."""
    kinds = [i for i in shop.instruments if isinstance(i, Attack)]
    if not shop.syllabus.known["test"]["concept"]:
        shop.say("attacks", "none: the base knows no question that an attack could bring back")
        return
    for instrument in kinds:
        for state in shop.attacked_states():
            _measure(shop, instrument, state)
    shop.say("attacks", f"{len(kinds)} attacks on {len(shop.attacked_states())} model states · "
                        f"{shop.run.folder / 'reports/attacks'}")


def missing(shop: Workshop, instrument: Instrument, state: str = BASE) -> str | None:
    """Why an instrument cannot be used on a state; None when it can. Asked once: an answer may take a look at the Hub."""
    if instrument.needs_whole_weights and not shop.settings.loading.is_plain:
        return "it copies every weight, and here the model is quantized or lies in parts"
    pack = never_known() if state == STRANGER else shop.pack
    key = (instrument.name, pack.name)
    if key not in shop.reasons:
        shop.reasons[key] = instrument.missing(pack)
    return shop.reasons[key]


def evidence(shop: Workshop) -> Evidence:
    """Everything that this battery measured, read back from the run folder."""
    states: dict[str, dict[str, Measured]] = {state: {} for state in (BASE, *shop.states())}
    attacked: dict[str, dict[str, Measured]] = {}
    for instrument, state in _measured(shop):
        found = Measured.from_json(shop.run.read_json(_file(instrument, state)))
        if isinstance(instrument, Attack):
            attacked.setdefault(instrument.name, {})[state] = found
        else:
            states[state][instrument.name] = found
    return Evidence(shop.syllabus, states, attacked)


def subject(shop: Workshop, state: str) -> Subject:
    """A model state as the instruments see it."""
    edit = shop.edit_of(BASE if state == STRANGER else state)
    known = Subject(shop.loaded, edit, shop.pack, shop.syllabus, shop.neutral_predictions(), shop.tokens(), shop.settings.seed,
                    shop.progress)
    return known.stranger(never_known()) if state == STRANGER else known


def _measure(shop: Workshop, instrument: Instrument, state: str) -> None:
    if missing(shop, instrument, state):
        return
    name = _file(instrument, state)

    def work() -> None:
        shop.run.write_json(name, instrument.measure(subject(shop, state)).to_json())

    shop.run.stage(_stage(instrument, state), _needed(shop), (name,), work, _decided_by(instrument))


def stages_of(shop: Workshop, instrument: Instrument) -> list[str]:
    """The names under which the run remembers what an instrument measured."""
    return [_stage(instrument, state) for state in _states(shop, instrument)]


def is_measured(shop: Workshop, instrument: Instrument, state: str) -> bool:
    """Whether the measurement is there, of these edits and with these settings."""
    inputs = shop.run.inputs(_needed(shop), _decided_by(instrument))
    return shop.run.is_done(_stage(instrument, state), inputs)


def _decided_by(instrument: Instrument) -> dict[str, Any]:
    """Its settings, and what lies in the files that they name."""
    read = [hashlib.sha256(path.read_bytes()).hexdigest() for path in instrument.sources() if path.is_file()]
    return instrument.model_dump(mode="json") | ({"sources": read} if read else {})


def _states(shop: Workshop, instrument: Instrument) -> tuple[str, ...]:
    return shop.attacked_states() if isinstance(instrument, Attack) else (BASE, *shop.states())


def _needed(shop: Workshop) -> tuple[str, ...]:
    return ("before", *shop.edit_stages())


def _measured(shop: Workshop) -> Iterator[tuple[Instrument, str]]:
    for instrument in shop.instruments:
        for state in _states(shop, instrument):
            if (shop.run.folder / _file(instrument, state)).is_file() and not missing(shop, instrument, state):
                yield instrument, state


def _stage(instrument: Instrument, state: str) -> str:
    return f"{'attack' if isinstance(instrument, Attack) else 'state'}-{instrument.name}-{state}"


def _file(instrument: Instrument, state: str) -> str:
    if isinstance(instrument, Attack):
        return f"reports/attacks/{instrument.name}/{state}.json"
    return f"reports/states/{state}/{instrument.name}.json"
