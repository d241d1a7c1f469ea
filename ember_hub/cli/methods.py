"""`ember-hub methods`: what is installed."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def methods(as_json: bool) -> None:
    """The installed methods, with their settings and references."""
    from ember_hub.methods.registry import installed

    found = installed()
    if as_json:
        click.echo(json.dumps({name: {"title": kind.title, "reference": kind.reference,
                                      "settings": kind.model_json_schema()["properties"]} for name, kind in found.items()}))
        return
    for name, kind in found.items():
        click.echo(f"{name}  {kind.title} · {kind.reference}")
        for key, field in kind.model_fields.items():
            click.echo(f"  --set {name}.{key}={field.default}  {field.description}")
