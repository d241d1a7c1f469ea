"""Writes what makes a result again: `reproduce/` in the run folder, and in every folder that will be pushed.

A recipe is data from a stranger when somebody reads it again. It names no place of a machine or of the network: paths and
addresses among the settings are left out here, and not followed there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from ember_hub.concepts.pack import ConceptPack, files_of
from ember_hub.publish.base_card import may_be_kept
from ember_hub.publish.markup import LOCAL_PATH
from ember_hub.publish.reproduce import CARD, FOLDER, PACK, SUMS
from ember_hub.publish.reproduce.environment import environment, requirements

KEPT: Mapping[str, Sequence[str]] = MappingProxyType({
    "publish": ("form", "base_id"), "loading": ("device_map", "quantization"),
    "verify": ("battery", "only", "skip", "bench", "bench_limit")})
"""Of these sections, what decides a result and names no place; other sections are kept whole."""
_WHOLE = ("methods", "dtype", "device", "seed", "trust_remote_code", "gates", "ember", "features", "search", "plugins")
_ABOUT = """`ember-hub reproduce REPO` makes this result again and compares. `requirements.txt` and `environment.json`: with what.
By hand: `ember-hub erase BASE --concept PACK --config recipe.toml`, with the base that the recipe names and {pack}.
`sha256sum -c reproduce/SHA256SUMS`, from the folder above, checks every file but the card.
"""


def recipe(settings: Mapping[str, Any], model: str, concept: str) -> dict[str, Any]:
    """The settings that decide a result, as `--config` reads them.

    Args:
        settings: all of them, dumped as JSON.
        model: the base by its repository and commit, or by its name.
    """
    kept = {section: {key: settings[section][key] for key in keys} for section, keys in KEPT.items()}
    plugins = {name: {key: value for key, value in fixed.items() if not is_place(value)}
               for name, fixed in settings["plugins"].items()}
    own = {key: settings[key] for key in _WHOLE} | kept | {"plugins": {name: fixed for name, fixed in plugins.items() if fixed}}
    return {"model": model, "concept": concept} | _without_none(own)


def left_out(settings: Mapping[str, Any]) -> list[str]:
    """Settings of a run that its recipe cannot hold, as `--set` names them."""
    places = [f"{name}.{key}" for name, fixed in settings["plugins"].items() for key, value in fixed.items() if is_place(value)]
    return places + (["verify.bench_include"] if settings["verify"]["bench_include"] else [])


def is_place(value: Any) -> bool:
    """Whether a setting is an address or a path, or holds one."""
    if isinstance(value, Mapping):
        return any(map(is_place, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_place, value))
    return isinstance(value, str) and bool("://" in value or LOCAL_PATH.search(value) or value.startswith((".", "\\")))


def may_be_passed_on(pack: ConceptPack) -> bool:
    """Whether the licence of the pack, and of every part of it, lets others have its text."""
    return all(may_be_kept(part.licence.strip().lower()) for part in pack.parts or (pack,))


def write(folder: Path, content: Mapping[str, Any], missing: Sequence[str], pack: ConceptPack) -> None:
    """Write `reproduce/` into `folder`, less the sums, which are those of one published folder."""
    place = folder / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    about = environment(content["device"]) | {"dtype": content["dtype"], "seed": content["seed"], "left_out": list(missing)}
    has_pack = may_be_passed_on(pack)
    where = "the pack in `pack/`" if has_pack else f"the concept pack {pack.sha256[:12]}…, whose licence keeps it out of here"
    for name, text in (("recipe.toml", tomli_w.dumps(content)), ("requirements.txt", requirements(about)),
                       ("environment.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n"),
                       ("README.md", _ABOUT.format(pack=where))):
        (place / name).write_text(text, encoding="utf-8")
    if has_pack:
        _copy_pack(pack, folder / PACK)


def pack_text(root: Path, concept: str) -> str | None:
    """How `--concept` names the pack that came with a result; None where it has none."""
    place = root / PACK
    if (place / "pack.toml").is_file():
        return str(place)
    parts = [place / str(number) for number in range(1, concept.count("+") + 2)]
    return "+".join(map(str, parts)) if all((part / "pack.toml").is_file() for part in parts) else None


def sums(folder: Path, sha256: Callable[[str], str]) -> str:
    """Every file of a published folder but its card, as `sha256sum` writes them.

    Args:
        sha256: the hash of a file by its path in the folder.
    """
    return "".join(f"{sha256(name)}  {name}\n" for name in _names(folder) if name not in (CARD, SUMS))


def _names(folder: Path) -> Iterator[str]:
    yield from sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                      if path.is_file() and not re.search(r"\.partial-\d+$", path.name))


def _copy_pack(pack: ConceptPack, place: Path) -> None:
    """A pack with what it falls back on; the parts of a combined one by number, for a name may be anything."""
    folders = {str(number): part for number, part in enumerate(pack.parts, 1)} or {"": pack}
    for name, part in folders.items():
        (place / name).mkdir(parents=True)
        for path in files_of(part.folder).values():
            shutil.copyfile(path, place / name / path.name)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
