"""`ember-hub push`: a finished run to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from ember_hub.cli.live import Live


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--repo", metavar="ORG/NAME", help="Target repository (default: {user}/{base}-ember-{concept}).")
@click.option("--as", "form", type=click.Choice(["full", "patch", "both"]), default="both", show_default=True, help="What to push.")
@click.option("--private", is_flag=True, help="Create the target repository as private.")
@click.option("--push-anyway", is_flag=True, help="Push although a gate failed; the card says so first.")
def push(run: Path, repo: str | None, form: str, private: bool, push_anyway: bool) -> None:
    """Push the finished run in the folder RUN."""
    from ember_hub.stages.deliver import push_run

    for pushed in push_run(run, repo, form, private=private, anyway=push_anyway, progress=Live()):
        click.echo(pushed.url)
