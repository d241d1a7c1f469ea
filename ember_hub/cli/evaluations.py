"""`ember-hub evaluations`: what can be measured, and with which settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ember_hub.evaluation.base import Battery


@click.command()
@click.option("--battery", type=click.Choice(["quick", "standard", "full"]), default="full", show_default=True,
              help="Only what this battery runs.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def evaluations(battery: Battery, as_json: bool) -> None:
    """The installed evaluations and attacks, with their settings and references."""
    from ember_hub.evaluation.registry import battery as instruments

    found = instruments(battery, {})
    if as_json:
        click.echo(json.dumps({i.name: {"kind": i.kind, "battery": i.battery,
                                        "title": i.title, "reference": i.reference, "reproducible": i.reproducible,
                                        "settings": i.model_json_schema()["properties"]} for i in found}))
        return
    for i in found:
        click.echo(f"{i.name}  {i.kind}, from the {i.battery} battery on: {i.title} · {i.reference}")
        for key, field in type(i).model_fields.items():
            click.echo(f"  --set {i.name}.{key}={json.dumps(getattr(i, key))}  {field.description or ''}".rstrip())
