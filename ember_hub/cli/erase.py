"""`ember-hub erase`: settings from flags, one call, a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ember_hub.cli.live import Live
from ember_hub.cli.table import print_report
from ember_hub.errors import ConfigError


@click.command()
@click.argument("model")
@click.option("--concept", required=True, help="Concept pack: name, alias or folder (see `ember-hub concepts list`).")
@click.option("--method", "methods", multiple=True, metavar="NAME",
              help="Baseline method after the embedding edit; may be repeated; `none` for the edit alone.  [default: rmu]")
@click.option("--no-ember", is_flag=True, help="Leave out the embedding edit.")
@click.option("--as", "form", type=click.Choice(["full", "patch", "both"]), help="What to write.  [default: both]")
@click.option("--push", "push", is_flag=False, flag_value="", metavar="[REPO]",
              help="Push to the Hub (default: {user}/{base}-ember-{concept}).")
@click.option("--private", is_flag=True, help="Create the target repository as private.")
@click.option("--push-anyway", is_flag=True, help="Push although a gate failed; the card then says so first.")
@click.option("--base-id", metavar="ORG/NAME", help="Hub id of the base when MODEL is a folder or a GGUF file.")
@click.option("--battery", type=click.Choice(["quick"]), help="Evaluations and attacks to run.  [default: quick]")
@click.option("--fail-under", "gates", multiple=True, metavar="NAME=VALUE",
              help="Limit on a result (recovered: at most; efficacy, specificity, coherence, harmonic: at least).")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Where run folders are kept.  [default: runs]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float16", "float32"]), help="Number type of the model.")
@click.option("--seed", type=int, help="Seed of everything random.  [default: 42]")
@click.option("--trust-remote-code", is_flag=True, help="Allow the model repository's own Python code to run.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. rmu.steps=150.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing while working.")
def erase(**given: Any) -> None:
    """Erase a concept from MODEL: a Hub repository (org/name[@revision]), a folder, or a .gguf file.

    A run that was interrupted continues where it was when the command is typed again.
    """
    from ember_hub.pipeline import erase as run
    from ember_hub.settings import resolve

    settings = resolve(_flags(given), assignments=given["assignments"], config=given["config"])
    outcome = run(settings, progress=Live(stages=not given["quiet"]))
    if given["as_json"]:
        click.echo(json.dumps(outcome.report, ensure_ascii=False))
    else:
        print_report(outcome)


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as nested settings; what was left out is left to the other sources."""
    flags = {key: given[key] for key in ("model", "concept", "output", "device", "dtype", "seed") if given[key] is not None}
    if given["methods"]:
        flags["methods"] = [name for name in given["methods"] if name != "none"]
    if given["trust_remote_code"]:
        flags["trust_remote_code"] = True
    if given["no_ember"]:
        flags["ember"] = {"enabled": False}
    if given["battery"]:
        flags["verify"] = {"battery": given["battery"]}
    if given["gates"]:
        flags["gates"] = dict(map(_gate, given["gates"]))
    publish = {key: given[key] for key in ("form", "base_id") if given[key] is not None}
    publish |= {key: True for key in ("private", "push_anyway") if given[key]}
    if given["push"] is not None:
        publish |= {"push": True} | ({"repo": given["push"]} if given["push"] else {})
    return flags | ({"publish": publish} if publish else {})


def _gate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise ConfigError(f"--fail-under {text!r} is no limit", hint="write --fail-under recovered=0.35") from error
