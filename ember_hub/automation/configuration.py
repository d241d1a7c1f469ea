"""The table `[watch]` of a recipe file: what is watched, and on which machines of the Hub the work is done.

    concept = "covid"            # the recipe, as for `ember-hub erase --config`
    methods = ["rmu"]

    [watch]
    orgs = ["HuggingFaceTB"]
    max_parameters = "3B"
    where = "jobs"

    [watch.job]
    flavor = "a10g-small"
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from ember_hub.automation.jobs import Terms
from ember_hub.automation.releases import Watch, seconds
from ember_hub.automation.work import Recipe
from ember_hub.errors import ConfigError

Where = Literal["auto", "here", "jobs"]
T = TypeVar("T", Watch, Terms)


@dataclass(frozen=True)
class Configuration:
    """What is watched, where the work is done, and on which terms when that is a Hub Job."""

    watch: Watch
    terms: Terms
    where: Where = "auto"


def configure(config: Path | None, watch: Mapping[str, Any], job: Mapping[str, Any], where: Where | None) -> Configuration:
    """The table of the file, with what the command line gave instead.

    Raises:
        ConfigError: the file cannot be read, or has a key that is unknown or a value out of range.
    """
    table = dict(_table(config)) if config else {}
    jobs, stated = table.pop("job", {}), table.pop("where", "auto")
    if stated not in ("auto", "here", "jobs"):
        raise ConfigError(f"watch.where = {stated!r}", hint="write auto, here or jobs")
    if not isinstance(jobs, dict):
        raise ConfigError("watch.job is no table", hint='write [watch.job] and below it flavor = "a10g-small"')
    found = Configuration(_validated(Watch, {**table, **watch}, "watch"), _validated(Terms, {**jobs, **job}, "watch.job"),
                          where or stated)
    if found.where == "jobs" and seconds(found.watch.claim) < seconds(found.terms.timeout):
        raise ConfigError(f"a claim of {found.watch.claim} expires before a Job of {found.terms.timeout} ends",
                          hint="give a longer --claim or a shorter --timeout")
    return found


def as_toml(found: Configuration, recipe: Recipe) -> str:
    """A file that says the same, for another machine."""
    import tomli_w

    settings = recipe.settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude={"model", "output"})
    table = _changed(found.watch) | {"where": found.where}
    if job := _changed(found.terms):
        table["job"] = job
    return tomli_w.dumps({**settings, "watch": table})


def _changed(value: Watch | Terms) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    now = {field.name: getattr(value, field.name) for field in fields(value) if getattr(value, field.name) != field.default}
    return {name: list(found) if isinstance(found, tuple) else found for name, found in now.items()}


def _table(config: Path) -> dict[str, Any]:
    # A file that cannot be read or parsed was refused when the recipe was read from it.
    table = tomllib.loads(config.read_text(encoding="utf-8")).get("watch", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{config}: watch is no table", hint='write [watch] and below it orgs = ["NAME"]')
    return table


def _validated(kind: type[T], values: Mapping[str, Any], section: str) -> T:
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=2, cutoff=0.4) or known
            raise ConfigError(f"no setting {section}.{key}", hint=f"did you mean: {', '.join(nearest)}?")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{section}.{key} = {first['input']!r}: {first['msg'].lower()}",
                          hint="see `ember-hub watch --help`") from error
