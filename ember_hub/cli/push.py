"""`ember-hub push`: a finished run to the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ember_hub.cli.live import Live
from ember_hub.cli.publication import publication, with_consent


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--repo", metavar="ORG/NAME", help="Target repository (default: {user}/{base}-ember-{concept}).")
@click.option("--as", "form", type=click.Choice(["full", "patch", "both"]), default="both", show_default=True, help="What to push.")
@publication
@click.option("--json", "as_json", is_flag=True, help="Print what lies on the Hub as JSON, one line for each repository.")
def push(run: Path, repo: str | None, form: str, push_anyway: bool, as_json: bool, **given: Any) -> None:
    """Push the finished run in the folder RUN.

    A push that was interrupted goes on where it was; what is on the Hub already is not sent again.
    """
    from ember_hub.publish.push import Pushed, PushOptions
    from ember_hub.stages.deliver import push_run

    def work(yes: bool) -> list[Pushed]:
        options = PushOptions(given["private"], given["create_pr"], given["tags"], given["collection"], yes)
        return push_run(run, repo, form, options, anyway=push_anyway, progress=Live())

    for pushed in with_consent(work, given["yes"]):
        click.echo(json.dumps(pushed.to_json(), ensure_ascii=False) if as_json else pushed.url)
