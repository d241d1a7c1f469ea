"""The entry point: which commands there are, each imported only when it is called, and the one place for errors."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from pathlib import Path

import click

from ember_hub import __version__
from ember_hub.errors import EmberHubError

COMMANDS = {
    "erase": "Erase a concept from a model, verify it, and write (or push) the result.",
    "plan": "Say what an erasure would change, take and cost; downloads no weights and writes nothing.",
    "verify": "Audit an edited model or adapter that anybody made.",
    "verify-files": "Show tensor by tensor how an edited checkpoint differs from its base.",
    "patch": "Make, inspect, apply, revert, convert, merge or check patches of the embedding.",
    "concepts": "List, show, check or import concept packs.",
    "methods": "The installed methods, with their settings and references.",
    "evaluations": "The installed evaluations and attacks, with their settings and references.",
    "report": "Write the report of a finished run: one self-contained page, and Markdown.",
    "card": "Print the model card of a finished run.",
    "push": "Push a finished run to the Hub.",
    "reproduce": "Make a published result again from its own recipe, and compare.",
    "watch": "Erase again whenever a watched base has a new release.",
}
INTERRUPTED = 130


class Commands(click.Group):
    """Commands by name; their modules are heavy, so help comes from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = name.replace("-", "_")
        return getattr(import_module(f"ember_hub.cli.{module}"), module)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ember-hub")
def cli() -> None:
    """Erase a named concept from an open-weight language model, prove it, and publish the result.

    \b
    ember-hub erase meta-llama/Llama-3.1-8B-Instruct --concept covid --push
    """


def main() -> None:
    """Run the command line; every known error becomes two lines and an exit code."""
    # Threads that spin long while they wait make a busy machine many times as slow; read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Where it is installed, peft imports it, and it regrets the lack of kernels that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    name = _called_as()
    try:
        code = cli.main(standalone_mode=False, prog_name=name)
    except EmberHubError as error:
        _complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else name
        _complain(error.format_message(), f"see `{where} --help`")
        sys.exit(2)
    except click.ClickException as error:
        _complain(error.format_message(), f"see `{name} --help`")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted", "type the same command again to continue where it was")
        sys.exit(INTERRUPTED)
    # Without standalone mode, click returns what a command exits with.
    if isinstance(code, int):
        sys.exit(code)


def _called_as() -> str:
    """`hf ember` when the Hub's own command line runs us as its extension, or `ember-hub`."""
    return "hf ember" if Path(sys.argv[0]).stem == "hf-ember" else "ember-hub"


def _complain(message: str, hint: str) -> None:
    click.echo(f"Error: {message}\nHint: {hint}", err=True)
