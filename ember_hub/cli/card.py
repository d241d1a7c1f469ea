"""`ember-hub card`: the model card of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ember_hub.errors import UsageError

if TYPE_CHECKING:
    from ember_hub.publish.push import Form


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice(["model", "patch"]), default="model", show_default=True, help="Which card.")
def card(run: Path, form: Form) -> None:
    """Print the model card of the finished run in the folder RUN."""
    from ember_hub.publish.card import render
    from ember_hub.publish.report.schema import read_current
    from ember_hub.stages.deliver import base_card

    report = read_current(run)
    if report["audited"]:
        raise UsageError(f"{run} is an audit of a model that others made, and a card is of one made here",
                         hint=f"ember-hub report {run} shows what the audit found")
    if not report["out"].get(form):
        raise UsageError(f"the run wrote no {form}", hint="give --form, or make it: ember-hub erase ... --as both")
    click.echo(render(report, form, base_card=base_card(run)))
