"""`ember-hub plan`: what an erasure would change, take and cost, before weights are downloaded."""

from __future__ import annotations

import json
from typing import Any

import click

from ember_hub.cli.live import Live
from ember_hub.cli.options import concepts
from ember_hub.cli.plan_table import print_plan


@click.command()
@click.argument("model")
@concepts
@click.option("--base-id", metavar="ORG/NAME", help="Hub id of the base when MODEL is a folder or a GGUF file.")
@click.option("--battery", type=click.Choice(["quick", "standard", "full"]), help="The verification to estimate.  [default: quick]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--seed", type=int, help="Seed of everything random.  [default: 42]")
@click.option("--trust-remote-code", is_flag=True, help="Allow the model repository's own Python code to run.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of an erasure, e.g. ember.seeds=3.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing while working.")
def plan(**given: Any) -> None:
    """Say what erasing a concept from MODEL would change and cost: a Hub repository, a folder, or a .gguf file.

    Of a repository on the Hub a few thousand rows of one tensor are read, and no weight file is downloaded. What is read is
    kept, so that an erasure later does not read it again.
    """
    from ember_hub.settings import resolve

    found: dict[str, Any] = {"model": given["model"], "concept": "+".join(given["concept"]), "methods": []}
    found |= {key: given[key] for key in ("device", "seed") if given[key] is not None}
    found |= {"trust_remote_code": True} if given["trust_remote_code"] else {}
    found |= {"verify": {"battery": given["battery"]}} if given["battery"] else {}
    found |= {"publish": {"base_id": given["base_id"]}} if given["base_id"] else {}
    show_plan(resolve(found, assignments=given["assignments"]), as_json=given["as_json"], is_quiet=given["quiet"])


def show_plan(settings: Any, *, as_json: bool, is_quiet: bool) -> None:
    """Make the plan for these settings and print it."""
    from ember_hub.pipeline import plan as make

    made = make(settings, progress=Live(stages=not is_quiet))
    if as_json:
        click.echo(json.dumps(made, ensure_ascii=False))
    else:
        print_plan(made)
