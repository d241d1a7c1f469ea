"""`ember-hub report`: a finished run as a page and as Markdown."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "is_opened", is_flag=True, help="Show the page in the browser.")
@click.option("--markdown", "is_printed", is_flag=True, help="Print the Markdown instead, and write nothing.")
def report(run: Path, is_opened: bool, is_printed: bool) -> None:
    """Write report.html and report.md of the finished run in the folder RUN.

    The page needs nothing else: send it as it is.
    """
    from ember_hub.publish.report.markdown import markdown
    from ember_hub.publish.report.schema import read_current
    from ember_hub.publish.report.write import write_report

    if is_opened and is_printed:
        raise click.UsageError("--open shows the page and --markdown writes none")
    if is_printed:
        click.echo(markdown(read_current(run)), nl=False)
        return
    written = write_report(run)
    click.echo(f"page     {written.page}\nmarkdown {written.text}")
    if is_opened and not webbrowser.open(written.page.resolve().as_uri()):
        click.echo(f"Note: no browser was found to open {written.page}", err=True)
