"""`ember-hub concepts`: list, show, check and import packs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ember_hub.errors import PackInvalid


@click.group()
def concepts() -> None:
    """List, show, check or import concept packs."""


@concepts.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """The built-in packs."""
    from ember_hub.concepts.registry import built_in

    packs = list(built_in())
    if as_json:
        click.echo(json.dumps([{"name": p.name, "title": p.title, "aliases": p.aliases, "sha256": p.sha256} for p in packs]))
        return
    for pack in packs:
        click.echo(f"{pack.name:<22} {pack.title} · also: {', '.join(pack.aliases[:5])}")


@concepts.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(name: str, as_json: bool) -> None:
    """What the pack NAME (name, alias or folder) holds."""
    from ember_hub.concepts.registry import find

    pack = find(name)
    counts = {"sentences": len(pack.sentences), "neutral": len(pack.neutral), "relearning": len(pack.relearning)}
    for part in ("questions", "near_domain", "general"):
        counts |= {f"{part} ({split})": len(pack.asked(part, split)) for split in ("tune", "test")}
    if as_json:
        click.echo(json.dumps({"name": pack.name, "title": pack.title, "aliases": pack.aliases, "keywords": pack.keywords,
                               "licence": pack.licence, "source": pack.source, "sha256": pack.sha256,
                               "folder": str(pack.folder), "counts": counts}))
        return
    click.echo(f"{pack.title} ({pack.name})\n{pack.description}\n")
    click.echo(f"aliases    {', '.join(pack.aliases)}\nkeywords   {', '.join(pack.keywords)}")
    click.echo(f"licence    {pack.licence} · {pack.source}\nsha256     {pack.sha256}\nfolder     {pack.folder}\n")
    for part, count in counts.items():
        click.echo(f"{count:>5}  {part}")


@concepts.command()
@click.argument("name")
def check(name: str) -> None:
    """Refuse the pack NAME (name, alias or folder) if it cannot be measured with."""
    from ember_hub.concepts.check import faults
    from ember_hub.concepts.registry import find

    pack = find(name)
    found = faults(pack)
    for fault in found:
        click.echo(str(fault))
    if found:
        raise PackInvalid(f"{len(found)} faults in {pack.name}", hint="mend the lines named above and check again")
    click.echo(f"{pack.name}: fit for use", err=True)


@concepts.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("concept", required=False)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path("packs"), show_default=True,
              help="Where the packs are written, one folder each.")
def import_(folder: Path, concept: str | None, output: Path) -> None:
    """Read the data of the EMBER paper in FOLDER into packs: CONCEPT, or all it holds."""
    import re

    from ember_hub.concepts.paper import concept_names, import_concept

    for name in [concept] if concept else concept_names(folder):
        target = output / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        pack = import_concept(folder, name, target)
        click.echo(f"{pack.name:<24} {len(pack.questions)} questions, {len(pack.sentences)} sentences · {target}")
