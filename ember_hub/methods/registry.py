"""Which methods are installed: those of the package, and those that other packages announce by entry point."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from ember_hub.errors import ConfigError
from ember_hub.methods.base import Method

GROUP = "ember_hub.methods"


def installed() -> dict[str, type[Method]]:
    """Method classes by name, sorted."""
    found = {entry.name: entry.load() for entry in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def find(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ConfigError: no method has it; the hint offers the nearest.
    """
    methods = installed()
    if name not in methods:
        nearest = difflib.get_close_matches(name, methods, n=2, cutoff=0.3)
        raise ConfigError(f"no method {name!r}", hint=f"did you mean: {', '.join(nearest or methods)}, or `none`?")
    return methods[name]


def check_settings(name: str, fixed: Mapping[str, Any]) -> None:
    """Refuse settings that the method does not have, or values that it does not take.

    Raises:
        ConfigError: the nearest setting is offered.
    """
    kind = find(name)
    try:
        kind(**fixed)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else name
        if first["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(key, kind.model_fields, n=2, cutoff=0.4) or sorted(kind.model_fields)
            raise ConfigError(f"{name} has no setting {key!r}",
                              hint=f"did you mean: {', '.join(f'{name}.{n}' for n in nearest)}?") from error
        raise ConfigError(f"{name}.{key} = {first.get('input')!r}: {first['msg'].lower()}",
                          hint="see `ember-hub methods`") from error
