"""Several concepts as one pack, so that one run loads, fits and measures once for all of them.

Lines and questions of the parts take turns: whatever reads only the first of them reads something of every concept.
Question ids carry their concept's name, `covid-19-pandemic:q12`, so that results can be told apart again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TypeVar

from ember_hub.concepts.check import normalized
from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.errors import PackInvalid

Item = TypeVar("Item")
SEPARATOR = "+"
"""Between the names of the concepts, wherever one name is expected."""


def combine(parts: Sequence[ConceptPack]) -> ConceptPack:
    """One pack of several; a single one stays what it is.

    What one concept's texts say of another's questions stays: a question of the near domain that belongs to another of the
    concepts is left out, for it shall go too; a question that several ask is asked once, as the first of them asks it. There are
    no aliases: asking for one concept by another's name makes no sense.

    Raises:
        PackInvalid: the same concept is named twice.
    """
    if len(parts) == 1:
        return parts[0]
    names = [pack.name for pack in parts]
    if len(set(names)) < len(names):
        raise PackInvalid(f"the same concept twice: {', '.join(names)}", hint="name each concept once")
    questions = _distinct([_named(pack, pack.questions) for pack in parts])
    asked, ids = {q.question.lower() for q in questions}, {q.id for q in questions}
    near = _distinct([[q for q in _named(pack, pack.near_domain) if q.question.lower() not in asked] for pack in parts])
    title = f"{', '.join(pack.title for pack in parts[:-1])} and {parts[-1].title}"
    return ConceptPack(
        name=SEPARATOR.join(names), title=title, description=" ".join(pack.description for pack in parts if pack.description),
        aliases=(), keywords=_once(word for pack in parts for word in (*pack.keywords, *pack.aliases)),
        licence=", ".join(_once(pack.licence for pack in parts)), source="; ".join(_once(pack.source for pack in parts)),
        sentences=_in_turns([pack.sentences for pack in parts]),
        questions=questions, near_domain=near,
        relearning=_in_turns([pack.relearning for pack in parts]), neutral=_neutral(parts),
        general=_general(parts),
        sha256=hashlib.sha256("\n".join(pack.sha256 for pack in parts).encode()).hexdigest(), folder=parts[0].folder,
        translations=_translations(parts, ids),
        paraphrases={f"{pack.name}:{key}": text for pack in parts for key, text in pack.paraphrases.items()
                     if f"{pack.name}:{key}" in ids},
        senses=_in_turns([pack.senses for pack in parts]), parts=tuple(parts))


def concept_of(question_id: str, pack: ConceptPack) -> str | None:
    """Which of a combined pack's concepts a question belongs to; None for a pack of one."""
    return next((part.name for part in pack.parts if question_id.startswith(f"{part.name}:")), None)


def _named(pack: ConceptPack, questions: Iterable[Question]) -> list[Question]:
    return [replace(q, id=f"{pack.name}:{q.id}") for q in questions]


def _distinct(lists: Iterable[Sequence[Question]]) -> tuple[Question, ...]:
    """The questions in turns, each wording once."""
    first: dict[str, Question] = {}
    for question in _in_turns(lists):
        first.setdefault(question.question.lower(), question)
    return tuple(first.values())


def _in_turns(lists: Iterable[Sequence[Item]]) -> tuple[Item, ...]:
    return tuple(item for turn in zip_longest(*lists) for item in turn if item is not None)


def _once(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _general(parts: Sequence[ConceptPack]) -> tuple[Question, ...]:
    """General questions of all, each wording once; where two have one id, the later takes its concept's name before it."""
    found: dict[str, Question] = {}
    ids: set[str] = set()
    for pack in parts:
        for question in pack.general:
            if question.question not in found:
                own = replace(question, id=f"{pack.name}:{question.id}") if question.id in ids else question
                found[question.question] = own
                ids.add(own.id)
    return tuple(found.values())


def _neutral(parts: Sequence[ConceptPack]) -> tuple[str, ...]:
    """Neutral sentences of all, less what is a sentence about one of the concepts or holds a keyword of one."""
    concept = set(chain.from_iterable(pack.sentences for pack in parts))
    keywords = [f" {normalized(word)} " for pack in parts for word in (*pack.keywords, *pack.aliases)]
    return tuple(line for line in _once(chain.from_iterable(pack.neutral for pack in parts))
                 if line not in concept and not any(word in f" {normalized(line)} " for word in keywords))


def _translations(parts: Sequence[ConceptPack], ids: Container[str]) -> Mapping[str, tuple[Question, ...]]:
    """Translations of the questions with these ids, by language."""
    languages = _once(language for pack in parts for language in pack.translations)
    named = {language: _in_turns([_named(pack, pack.translations.get(language, ())) for pack in parts]) for language in languages}
    return {language: tuple(q for q in questions if q.id in ids) for language, questions in named.items()}
