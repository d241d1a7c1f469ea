"""What an erasure would change, cost and leave, said before weights are downloaded. Writes nothing but the cache."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ember_hub import __version__
from ember_hub.concepts.background import WORDS
from ember_hub.concepts.pack import ConceptPack
from ember_hub.evaluation.base import Instrument
from ember_hub.methods.base import Method
from ember_hub.progress import Progress
from ember_hub.publish.push.target import default_repo
from ember_hub.settings import Settings
from ember_hub.source.anatomy import empty_model, is_quantized
from ember_hub.source.memory import parameter_count
from ember_hub.source.remote import RemoteCheckpoint
from ember_hub.source.resolve import Base
from ember_hub.stages.collateral import tokens
from ember_hub.stages.needs import Need, Site, Spent, folder_bytes, machine, needs
from ember_hub.stages.rows import Found, Vocabulary, look

SCHEMA = 1
_MISSED_SHOWN = 12
_REMARKS: Mapping[str, str] = {
    "llama": "the Llama licence asks that the name of a derived model begin with “Llama”, that “Built with Llama” be shown with "
             "it, and that its text and its notice go along",
    "gemma": "the Gemma terms ask that their use restrictions bind whoever gets the result, and that changes be stated",
}


@dataclass(frozen=True)
class Intent:
    """What is planned for."""

    settings: Settings
    base: Base
    pack: ConceptPack
    instruments: tuple[Instrument, ...]
    methods: Mapping[str, type[Method]]


def make_plan(intent: Intent, progress: Progress) -> dict[str, Any]:
    """The plan as other programs read it; keys are only ever added within a schema.

    Raises:
        NoConceptTokens, NoFeatureSelected: this vocabulary has nothing of the concept's own.
        EmberHubError: the base cannot be edited, or its rows cannot be read.
    """
    start, (settings, base, pack) = time.monotonic(), (intent.settings, intent.base, intent.pack)
    vocabulary = Vocabulary.open(base, settings, progress)
    found = look(vocabulary, pack, settings, progress)
    progress.say("features", found.coverage.verdict)
    listed = tokens(found, pack, vocabulary, settings)
    spent = Spent(time.monotonic() - start, _peak(), _patch_bytes(found, vocabulary, base))
    site = _site(intent, vocabulary)
    here = machine(site)
    ways = list(needs(site, here, spent))
    fetched = vocabulary.weights.bytes_fetched if isinstance(vocabulary.weights, RemoteCheckpoint) else 0
    reach = asdict(found.coverage)
    return {
        "schema": SCHEMA, "version": __version__, "model": _model(site, vocabulary),
        "concept": {"name": pack.name, "title": pack.title, "sha256": pack.sha256},
        "verdict": reach.pop("verdict"), "coverage": reach, "features": sum(f.kept for f in found.rows.evidence.features),
        "strength": settings.ember.untuned_strength, "reference": _reference(found, pack), "tokens": listed,
        "read": {"rows": len(found.labels.token_ids), "bytes_fetched": fetched, "companion_bytes": folder_bytes(base.folder)},
        "machine": asdict(here), "ways": [_way(need, settings, base.source_kind == "hub") for need in ways],
        "limits": list(_limits(site, found, ways)), "notes": list(_notes(base, pack)),
    }


def _site(intent: Intent, vocabulary: Vocabulary) -> Site:
    settings, folder = intent.settings, intent.base.folder
    plan = empty_model(folder, settings.trust_remote_code, may_be_quantized=True)
    return Site(settings, intent.base, intent.pack, vocabulary.anatomy, vocabulary.weights, plan, intent.instruments,
                dict(intent.methods), is_quantized(folder, settings.trust_remote_code))


def _model(site: Site, vocabulary: Vocabulary) -> dict[str, Any]:
    base, info, anatomy = site.base, vocabulary.weights.info(vocabulary.tensor), vocabulary.anatomy
    return {"name": base.name, "repo_id": base.repo_id, "commit": base.commit, "source_kind": base.source_kind,
            "licence": asdict(base.licence), "gated": base.gated, "parameters": parameter_count(site.plan),
            "weight_bytes": site.weight_bytes(), "embedding": vocabulary.tensor, "dtype": info.code, "vocab": anatomy.vocab,
            "d_model": anatomy.d_model, "is_tied": anatomy.is_tied, "is_quantized": site.is_quantized}


def _way(need: Need, settings: Settings, is_on_hub: bool) -> dict[str, Any]:
    """A way with the flags that take it."""
    words = [word for name in need.methods or ("none",) for word in ("--method", name)] + ["--as", need.form]
    battery = (settings.verify.battery if settings.is_measured else None) or "quick"
    words += ["--battery", battery if need.is_measured else "none"] if need.is_measured or not is_on_hub else []
    seconds = None if need.seconds is None else round(need.seconds, 1)
    return asdict(need) | {"methods": list(need.methods), "seconds": seconds, "flags": " ".join(words)}


def _patch_bytes(found: Found, vocabulary: Vocabulary, base: Base) -> int:
    """New and old rows, the product of low rank beside them, and the tokenizer."""
    rows = found.rows
    values = 2 * len(rows.token_ids) * vocabulary.weights.info(vocabulary.tensor).row_size
    return values + 4 * (rows.F.numel() + rows.G.numel()) + folder_bytes(base.folder)


def _peak() -> int:
    """Bytes of memory that this process has taken at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _reference(found: Found, pack: ConceptPack) -> str:
    odds = found.labels.settings.prior_odds
    return (f"share of all uses in {odds + 1:g} texts, of which one is on the concept and the others are ordinary English "
            f"(frequencies of {WORDS:,} words by wordfreq) or like the pack's {len(pack.neutral)} neutral sentences, whichever "
            "uses the token more")


def _limits(site: Site, found: Found, ways: list[Need]) -> Iterator[str]:
    """What would not be edited, and why."""
    missed = found.coverage.missed
    if missed:
        more = f", and {len(missed) - _MISSED_SHOWN} more" if len(missed) > _MISSED_SHOWN else ""
        yield f"{len(missed)} of the concept's words hold no token of their own: {', '.join(missed[:_MISSED_SHOWN])}{more}"
    yield "the output head stays as it is: the model reads these tokens as something else, and can still write them"
    if site.anatomy.is_tied:
        yield "head and embedding are one matrix: a full model gets a head of its own, a patch leaves the head alone"
    if site.anatomy.other_tables:
        yield f"further tables with a row for each token stay as they are: {', '.join(site.anatomy.other_tables)}"
    for reason in dict.fromkeys(f"{_title(w)}: {w.blocked}" for w in ways if w.blocked):
        yield f"not possible here: {reason}"


def _title(need: Need) -> str:
    return f"{need.form} with {' and '.join(need.methods) or 'no other method'}{'' if need.is_measured else ', not measured'}"


def _notes(base: Base, pack: ConceptPack) -> Iterator[str]:
    """What licence and gate ask of whoever publishes the result."""
    licence = base.licence.id.lower()
    for family, remark in _REMARKS.items():
        if licence.startswith(family):
            yield remark
    name = default_repo("you", base.repo_id or base.name, pack.name, "patch").partition("/")[2]
    if licence.startswith("llama") and not name.lower().startswith("llama"):
        yield f"the default name {name} does not begin with “Llama”: give another one with --push USER/NAME"
    else:
        yield f"the default name on the Hub is {name}"
    if licence == "unknown":
        yield "the base states no licence: ask its owner before anything is passed on"
    if "-nc" in licence:
        yield f"the base's licence {licence} allows no commercial use, and the result inherits that"
    if base.gated:
        yield "the base is gated: a patch works for those who have access to it; a full copy should be gated as it is"
