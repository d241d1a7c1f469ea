"""`ember-hub verify`: an audit of any edited model or adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ember_hub.cli.live import Live
from ember_hub.cli.options import concepts, flags, verification
from ember_hub.cli.table import print_report


@click.command()
@click.argument("model")
@click.option("--base", metavar="MODEL", help="The model that it was made from; an adapter names its own.")
@concepts
@verification
@click.option("--base-id", metavar="ORG/NAME", help="Hub id of the base when it is a folder or a GGUF file.")
def verify(model: str, base: str | None, **given: Any) -> None:
    """Audit MODEL, an edited model or adapter that anybody made: repository, folder, GGUF file, or the folder of a run.

    What is measured are the same evaluations, attacks and controls as for our own. An audit that was interrupted continues where it
    was when the command is typed again.
    """
    from ember_hub.pipeline import verify as run
    from ember_hub.settings import resolve

    own = {"model": base or "", "methods": [], "ember": {"enabled": False}}
    settings = resolve(flags(given) | own, assignments=given["assignments"], config=given["config"])
    outcome = run(settings, _edited(model), progress=Live(stages=not given["quiet"]))
    if given["as_json"]:
        click.echo(json.dumps(outcome.report, ensure_ascii=False))
    else:
        print_report(outcome)
    outcome.require_gates()


def _edited(model: str) -> str:
    """The edited model of a run, or the patch where it wrote that alone, when the folder is one."""
    return next((str(made) for form in ("model", "patch") if (made := Path(model) / "out" / form).is_dir()), model)
