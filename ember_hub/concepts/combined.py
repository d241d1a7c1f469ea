"""Several concepts as one pack, so that one run loads, fits and measures once for all of them.

Lines and questions of the parts take turns: whatever reads only the first of them reads something of every concept.
Question ids carry their concept's name, `covid-19-pandemic:q12`, so that results can be told apart again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TypeVar

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.errors import PackInvalid

Item = TypeVar("Item")
SEPARATOR = "+"
"""Between the names of the concepts, wherever one name is expected."""


def combine(parts: Sequence[ConceptPack]) -> ConceptPack:
    """One pack of several; a single one stays what it is.

    What one concept's texts say of another's questions stays: a question of the near domain that belongs to another of the
    concepts is left out, for it shall go too. There are no aliases: asking for one concept by another's name makes no sense.

    Raises:
        PackInvalid: the same concept is named twice.
    """
    if len(parts) == 1:
        return parts[0]
    names = [pack.name for pack in parts]
    if len(set(names)) < len(names):
        raise PackInvalid(f"the same concept twice: {', '.join(names)}", hint="name each concept once")
    asked = {q.question.lower() for pack in parts for q in pack.questions}
    near = [[q for q in _named(pack, pack.near_domain) if q.question.lower() not in asked] for pack in parts]
    title = f"{', '.join(pack.title for pack in parts[:-1])} and {parts[-1].title}"
    return ConceptPack(
        name=SEPARATOR.join(names), title=title, description=" ".join(pack.description for pack in parts if pack.description),
        aliases=(), keywords=_once(word for pack in parts for word in (*pack.keywords, *pack.aliases)),
        licence=", ".join(_once(pack.licence for pack in parts)), source="; ".join(_once(pack.source for pack in parts)),
        sentences=_in_turns([pack.sentences for pack in parts]),
        questions=_in_turns([_named(pack, pack.questions) for pack in parts]), near_domain=_in_turns(near),
        relearning=_in_turns([pack.relearning for pack in parts]), neutral=_neutral(parts),
        general=tuple({q.question: q for pack in parts for q in pack.general}.values()),
        sha256=hashlib.sha256("\n".join(pack.sha256 for pack in parts).encode()).hexdigest(), folder=parts[0].folder,
        translations=_translations(parts),
        paraphrases={f"{pack.name}:{key}": text for pack in parts for key, text in pack.paraphrases.items()},
        senses=_in_turns([pack.senses for pack in parts]), parts=tuple(parts))


def concept_of(question_id: str, pack: ConceptPack) -> str | None:
    """Which of a combined pack's concepts a question belongs to; None for a pack of one."""
    return next((part.name for part in pack.parts if question_id.startswith(f"{part.name}:")), None)


def _named(pack: ConceptPack, questions: Iterable[Question]) -> list[Question]:
    return [replace(q, id=f"{pack.name}:{q.id}") for q in questions]


def _in_turns(lists: Iterable[Sequence[Item]]) -> tuple[Item, ...]:
    return tuple(item for turn in zip_longest(*lists) for item in turn if item is not None)


def _once(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _neutral(parts: Sequence[ConceptPack]) -> tuple[str, ...]:
    """Neutral sentences of all, less what is a sentence about one of the concepts."""
    concept = set(chain.from_iterable(pack.sentences for pack in parts))
    return tuple(line for line in _once(chain.from_iterable(pack.neutral for pack in parts)) if line not in concept)


def _translations(parts: Sequence[ConceptPack]) -> Mapping[str, tuple[Question, ...]]:
    languages = _once(language for pack in parts for language in pack.translations)
    return {language: _in_turns([_named(pack, pack.translations.get(language, ())) for pack in parts]) for language in languages}
