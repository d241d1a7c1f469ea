"""Which packs there are, and which one a name means: built-in packs by name or alias, any other by its folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from ember_hub.concepts import pack as packs
from ember_hub.concepts.combined import SEPARATOR, combine
from ember_hub.concepts.pack import ConceptPack
from ember_hub.errors import PackNotFound

BUILT_IN = Path(__file__).parent / "packs"


def built_in() -> Iterator[ConceptPack]:
    """Every pack that ships with the package, by name."""
    for about in sorted(BUILT_IN.glob("*/pack.toml")):
        yield packs.load(about.parent)


def on_other_topics(pack: ConceptPack) -> list[ConceptPack]:
    """The built-in packs on other topics: those that share neither a name, title or alias with the pack nor a sentence."""
    parts = (pack, *pack.parts)
    names, sentences = {key for part in parts for key in _keys(part)}, {line for part in parts for line in part.sentences}
    return [other for other in built_in() if not names & _keys(other) and sentences.isdisjoint(other.sentences)]


def never_known() -> ConceptPack:
    """A concept that no model knows, invented for this package: what an attack teaches instead of bringing back."""
    return packs.load(packs.SHARED / "never-known")


def find(name: str) -> ConceptPack:
    """The pack meant by a name, an alias or a folder; several with `+` between them are combined into one.

    Raises:
        PackNotFound: nothing answers to the name; the hint offers the nearest ones.
    """
    if Path(name).joinpath("pack.toml").is_file():
        return packs.load(Path(name))
    known = {key: pack for pack in built_in() for key in _keys(pack)}
    if _key(name) in known:
        return known[_key(name)]
    if SEPARATOR in name:
        return combine([find(part.strip()) for part in name.split(SEPARATOR)])
    nearest = difflib.get_close_matches(_key(name), known, n=3, cutoff=0.4)
    offers = ", ".join(dict.fromkeys(known[key].name for key in nearest)) or ", ".join(p.name for p in built_in())
    raise PackNotFound(f"no concept {name!r}",
                       hint=f"did you mean: {offers}? A folder with a pack.toml works too (`ember-hub concepts list`)")


def _keys(pack: ConceptPack) -> set[str]:
    return {_key(name) for name in (pack.name, pack.title, *pack.aliases)}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())
