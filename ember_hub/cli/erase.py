"""`ember-hub erase`: settings from flags, one call, a table."""

from __future__ import annotations

import json
from typing import Any

import click

from ember_hub.cli.live import Live
from ember_hub.cli.options import concepts, flags, verification
from ember_hub.cli.plan import show_plan
from ember_hub.cli.publication import publication, publishing, with_consent
from ember_hub.cli.table import print_report


@click.command()
@click.argument("model")
@concepts
@click.option("--method", "methods", multiple=True, metavar="NAME",
              help="Baseline method after the embedding edit; may be repeated; `none` for the edit alone.  [default: rmu]")
@click.option("--no-ember", is_flag=True, help="Leave out the embedding edit.")
@click.option("--as", "form", type=click.Choice(["full", "patch", "both"]), help="What to write.  [default: both]")
@click.option("--push", "push", is_flag=False, flag_value="", metavar="[REPO]",
              help="Push to the Hub (default: {user}/{base}-ember-{concept}).")
@publication
@click.option("--base-id", metavar="ORG/NAME", help="Hub id of the base when MODEL is a folder or a GGUF file.")
@click.option("--dry-run", is_flag=True, help="Print the plan for these settings, as `ember-hub plan` does, and do nothing.")
@verification
def erase(**given: Any) -> None:
    """Erase a concept from MODEL: a Hub repository (org/name[@revision]), a folder, or a .gguf file.

    A run that was interrupted continues where it was when the command is typed again.
    """
    from ember_hub.pipeline import erase as run
    from ember_hub.settings import resolve

    settings = resolve(_flags(given), assignments=given["assignments"], config=given["config"])
    if given["dry_run"]:
        show_plan(settings, as_json=given["as_json"], is_quiet=given["quiet"])
        return
    outcome = with_consent(lambda yes: run(settings.with_consent(yes), progress=Live(stages=not given["quiet"])),
                           settings.publish.yes)
    if given["as_json"]:
        click.echo(json.dumps(outcome.report, ensure_ascii=False))
    else:
        print_report(outcome)
    outcome.require_gates()


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as nested settings."""
    found = flags(given) | {"model": given["model"]}
    if given["methods"]:
        found["methods"] = [name for name in given["methods"] if name != "none"]
    if given["no_ember"]:
        found["ember"] = {"enabled": False}
    publish = found.get("publish", {}) | ({"form": given["form"]} if given["form"] else {})
    publish |= publishing(given)
    if given["push"] is not None:
        publish |= {"push": True} | ({"repo": given["push"]} if given["push"] else {})
    return found | ({"publish": publish} if publish else {})
