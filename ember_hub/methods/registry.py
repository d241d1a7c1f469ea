"""Which methods are installed: those of the package, and those that other packages announce by entry point."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points

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
