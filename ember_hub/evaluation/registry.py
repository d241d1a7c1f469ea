"""Which evaluations and attacks are installed, and which of them a battery runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from ember_hub.errors import ConfigError
from ember_hub.evaluation.base import BATTERIES, Attack, Battery, Evaluation, Instrument

GROUPS: Mapping[str, type[Instrument]] = {"ember_hub.evaluations": Evaluation, "ember_hub.attacks": Attack}


def installed() -> dict[str, type[Instrument]]:
    """Evaluations, then attacks, by name, each sorted by battery."""
    found: dict[str, type[Instrument]] = {}
    for group in GROUPS:
        kinds = [entry.load() for entry in entry_points(group=group)]
        found |= {kind.name: kind for kind in sorted(kinds, key=lambda k: (BATTERIES.index(k.battery), k.name))}
    return found


def battery(name: Battery, settings: Mapping[str, Mapping[str, Any]], *, only: Iterable[str] = (), skip: Iterable[str] = ()
            ) -> tuple[Instrument, ...]:
    """The instruments of a battery, with their settings; `only` picks by name from all, `skip` leaves some out.

    Raises:
        ConfigError: a name is not installed, or a setting is wrong; the nearest is offered.
    """
    kinds = installed()
    for wanted in (*only, *skip):
        _require(wanted, kinds)
    chosen = list(only) or [k for k, kind in kinds.items() if BATTERIES.index(kind.battery) <= BATTERIES.index(name)]
    return tuple(build(k, settings.get(k, {})) for k in chosen if k not in set(skip))


def build(name: str, settings: Mapping[str, Any]) -> Instrument:
    """One instrument with its settings.

    Raises:
        ConfigError: it is not installed, or has no such setting.
    """
    kinds = installed()
    _require(name, kinds)
    try:
        return kinds[name](**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else name
        if first["type"] == "extra_forbidden":
            fields = kinds[name].model_fields
            nearest = difflib.get_close_matches(key, fields, n=2, cutoff=0.4) or sorted(fields)
            raise ConfigError(f"{name} has no setting {key!r}",
                              hint=f"did you mean: {', '.join(f'{name}.{n}' for n in nearest)}?") from error
        raise ConfigError(f"{name}.{key} = {first.get('input')!r}: {first['msg'].lower()}",
                          hint="see `ember-hub evaluations`") from error


def _require(name: str, kinds: Mapping[str, type[Instrument]]) -> None:
    if name not in kinds:
        nearest = difflib.get_close_matches(name, kinds, n=3, cutoff=0.3)
        raise ConfigError(f"no evaluation or attack {name!r}", hint=f"did you mean: {', '.join(nearest or kinds)}?")
