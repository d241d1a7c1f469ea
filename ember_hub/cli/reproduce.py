"""`ember-hub reproduce`: a published result made again from its own recipe, and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ember_hub.cli.live import Live

if TYPE_CHECKING:
    from ember_hub.publish.reproduce.comparison import Comparison

SHOWN = 10
"""Differences of one kind that the table lists; `--json` has all."""


@click.command()
@click.argument("original", metavar="REPO_OR_RUN")
@click.option("--base", metavar="PATH", help="The base, for a result that was made from a folder or a GGUF file.")
@click.option("--concept", metavar="FOLDER", help="The concept pack, for one whose licence keeps it out of the repository.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False),
              help="Where it is made again.  [default: runs/reproduced]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...; another one than the recipe's is another machine.")
@click.option("--trust-remote-code", is_flag=True, help="Allow the base's own Python code to run; a recipe cannot.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting that has to be different here.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing while working.")
def reproduce(original: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Make the published result REPO_OR_RUN again from its own recipe, and compare.

    REPO_OR_RUN is org/name[@revision] on the Hub, a folder that was downloaded from it, or the folder of a finished run. Files
    are compared by hash, scores by the published intervals. Exit code 1: it did not come out the same.
    """
    from ember_hub.pipeline import reproduce as run
    from ember_hub.stages.again import Changes

    changes = Changes(**{name: value for name, value in given.items() if value})
    found = run(original, changes, progress=Live(stages=not quiet))
    if as_json:
        click.echo(json.dumps([comparison.to_json() for comparison in found], ensure_ascii=False))
    else:
        for comparison in found:
            for line in lines(comparison):
                click.echo(line)
    for comparison in found:
        comparison.require_reproduced()


def lines(found: Comparison) -> Iterator[str]:
    """The comparison for people, line by line."""
    yield f"{found.form:<12} {found.original}" + (f" at {found.commit[:12]}" if found.commit else "")
    yield f"machine      {'the same type' if found.is_same_machine else 'another type'}"
    for difference in found.environment:
        yield f"  {difference.name}: {difference.here or 'not installed'} here, {difference.there or 'not installed'} there"
    yield f"files        {found.equal_files} of {found.equal_files + len(found.different_files)} equal by SHA-256"
    yield from _some(found.different_files)
    yield (f"scores       {found.compared_scores - len(found.different_scores)} of {found.compared_scores} within the published "
           "intervals")
    yield from _some(tuple(map(str, found.different_scores)))
    verdict = "reproduced" if found.is_reproduced else "NOT the same"
    means = "the hashes of the files" if found.by == "hash" else "the scores: the files differ, as machine or versions do"
    yield f"{verdict:<12} by {means}"


def _some(texts: tuple[str, ...]) -> Iterator[str]:
    yield from (f"  {text}" for text in texts[:SHOWN])
    if len(texts) > SHOWN:
        yield f"  and {len(texts) - SHOWN} more"
