"""`ember-hub patch`: make, inspect, apply, revert, convert, merge and check patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ember_hub.cli.live import Live

if TYPE_CHECKING:
    from ember_hub.patches.patch import Patch

_PATH = click.Path(path_type=Path)
_out = click.option("--out", "--output", "out", type=_PATH, required=True, help="What to write; must not exist.")


@click.group()
def patch() -> None:
    """Make, inspect, apply, revert, convert, merge or check patches of the embedding.

    PATCH is the folder of a patch, or org/name[@revision] on the Hub. All but `make` need neither torch nor the base's other
    weights, and no command changes what it is given: each writes something new.
    """


@patch.command()
@click.argument("edited")
@click.option("--base", metavar="MODEL", help="The model that it was made from; a run names its own.")
@_out
@click.option("--base-id", metavar="ORG/NAME", help="Hub id of the base when it is a folder or a GGUF file.")
def make(edited: str, base: str | None, out: Path, base_id: str | None) -> None:
    """Make a patch of EDITED: the folder of a run, an edit file, or any edited model or adapter, by its difference to the base."""
    from ember_hub.stages.make_patch import patch_of_edited

    made = patch_of_edited(edited, base, out, base_id, Live())
    click.echo(f"patch    {_summary(made)} · {out}")


@patch.command()
@click.argument("patch")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@click.option("--tokens", "with_tokens", is_flag=True, help="A line for each token: id, norms of its rows, how far it moves.")
def inspect(patch: str, as_json: bool, with_tokens: bool) -> None:
    """Show what PATCH is made for and what it changes, checked for damage."""
    from ember_hub.patches.inspect import facts, lines, token_facts

    folder = _folder(patch)
    opened = _read(folder)
    about = facts(opened) | ({"tokens": token_facts(opened, folder)} if with_tokens else {})
    click.echo(json.dumps(about, ensure_ascii=False, indent=1) if as_json else "\n".join(lines(about)))


@patch.command()
@click.argument("patch")
@click.option("--to", "folder", type=_PATH, required=True, help="Checkpoint folder of the base.")
@_out
@click.option("--undo", type=_PATH, help="Also write a file here that undoes it, without the patch.")
def apply(patch: str, folder: Path, out: Path, undo: Path | None) -> None:
    """Write the base with the rows of PATCH into a new checkpoint folder.

    A tied base gets an output head of its own, as `ember-hub erase --as full` gives it. What differs from the base that the patch
    was made for is refused before anything is written.
    """
    from ember_hub.patches.apply import apply as run

    written = run(_open(patch), folder, out, Live(), undo)
    head = " · the head is a tensor of its own now" if written.head else ""
    click.echo(f"applied  {written.rows} rows{head} · {out}")


@patch.command()
@click.argument("patch", required=False)
@click.option("--undo", type=_PATH, help="The file that `apply --undo` wrote, instead of PATCH.")
@click.option("--from", "folder", type=_PATH, required=True, help="Checkpoint folder with the patch in it.")
@_out
@click.option("--base", type=_PATH, help="Checkpoint folder of the base, for a PATCH that came without the base's rows.")
def revert(patch: str | None, undo: Path | None, folder: Path, out: Path, base: Path | None) -> None:
    """Take PATCH out of a checkpoint folder: a new one with the base's own rows, bit for bit."""
    from ember_hub.patches.apply import revert as run
    from ember_hub.patches.apply import undo_of
    from ember_hub.patches.undo import Undo

    if (patch is None) == (undo is None) or (undo and base):
        raise click.UsageError("give either PATCH (with or without --base), or --undo FILE")
    written = run(Undo.open(undo) if undo else undo_of(_open(str(patch)), base), folder, out, Live())
    head = " · head and embedding are one again" if written.head else ""
    click.echo(f"reverted {written.rows} rows{head} · {out}")


@patch.command()
@click.argument("patch")
@click.option("--to", "form", type=click.Choice(["tokens", "lora-embed", "gguf"]), required=True, help="The format to write.")
@click.option("--out", "--output", "out", type=_PATH, required=True, help="Folder (gguf: file) to write; must not exist.")
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the LoRA (default: that of the edit, or the smallest exact one).")
@click.option("--architecture", metavar="NAME", help="gguf: general.architecture of the base's GGUF file, if it cannot be told.")
def convert(patch: str, form: str, out: Path, rank: int | None, architecture: str | None) -> None:
    """Write PATCH in another format, and say how far that is from its rows.

    tokens: the rows themselves, exact. lora-embed: a LoRA of the embedding, for servers. gguf: the same for llama.cpp; untied
    bases only.
    """
    from ember_hub.patches.convert import to_lora_embed, to_tokens
    from ember_hub.patches.folder import save
    from ember_hub.patches.storage import require_new

    if (rank and form == "tokens") or (architecture and form != "gguf"):
        raise click.UsageError("--rank is for lora-embed and gguf, --architecture for gguf")
    require_new(out)
    folder = _folder(patch)
    opened = _read(folder)
    made = to_tokens(opened) if form == "tokens" else to_lora_embed(opened, rank)
    if form == "gguf":
        from ember_hub.patches.gguf_adapter import write_gguf

        write_gguf(made.patch, out, architecture)
    else:
        save(made.patch, out, companions_of=folder)
    ranked = "" if form == "tokens" or made.patch.factors is None else f" of rank {made.patch.factors.rank}"
    exact = (f"{made.differing} of {len(opened)} rows differ from the patch, by at most {made.error:.2g}" if made.differing
             else "every row as in the patch")
    click.echo(f"converted {form}{ranked} · {exact} · {out}")


@patch.command()
@click.argument("patches", nargs=-1, required=True)
@_out
def merge(patches: tuple[str, ...], out: Path) -> None:
    """Make one patch of several for the same base; where two move the same token, their moves are added."""
    from ember_hub.patches.folder import save
    from ember_hub.patches.merge import merge as run
    from ember_hub.patches.storage import require_new

    if len(patches) < 2:
        raise click.UsageError("give at least two patches")
    require_new(out)
    folders = [_folder(text) for text in patches]
    merged = run([_read(folder) for folder in folders])
    save(merged.patch, out, companions_of=folders[0])
    shared = len(merged.overlapping)
    told = f"{shared} tokens are moved by more than one: their moves were added" if shared else "no token is moved by two"
    click.echo(f"merged   {len(merged.patch)} rows of {len(patches)} patches · {told} · {out}")


@patch.command()
@click.argument("patch")
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
def check(patch: str, as_json: bool) -> None:
    """Say whether PATCH still fits the newest commit of its base on the Hub; exit code 3 if it must be made again.

    Reads only the rows that the patch replaces.
    """
    from dataclasses import asdict

    from ember_hub.publish.published_patch import drift

    found = drift(_open(patch), Live())
    if as_json:
        click.echo(json.dumps({**asdict(found), "fits": found.fits}))
    elif found.fits:
        since = "made for it" if found.newest == found.made_for else f"made for {found.made_for}, whose rows are the same"
        click.echo(f"fits     {found.repo}@{found.newest} · {since}")
    found.require_fit()


def _open(text: str) -> Patch:
    return _read(_folder(text))


def _read(folder: Path) -> Patch:
    from ember_hub.patches.patch import Patch

    return Patch.open(folder)


def _folder(text: str) -> Path:
    """The patch's folder; what is there is not asked for on the Hub."""
    if Path(text).is_dir():
        return Path(text)
    from ember_hub.publish.published_patch import patch_folder

    return patch_folder(text)


def _summary(made: Any) -> str:
    factors = f" of rank {made.factors.rank}" if made.factors is not None else ""
    return f"{len(made)} rows{factors} for {made.base.title}"
