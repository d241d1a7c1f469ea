"""What makes a pack unfit to measure with: duplicates, leaks between the splits, answers given away, empty parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.concepts.prompts import LETTERS
from ember_hub.errors import PackInvalid

FLOORS = {"sentences": 20, "neutral": 20, "relearning": 4}
"""Fewer lines than this cannot be factorized or relearned from."""
QUESTION_FLOOR = 8
"""Fewer questions than this in a split measure nothing."""


@dataclass(frozen=True)
class Fault:
    """One reason for refusing a pack: where, and what is wrong there."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def faults(pack: ConceptPack) -> list[Fault]:
    """Every fault of the pack; an empty list means it is fit for use."""
    return [*_empty_parts(pack), *_repeated_lines(pack), *_bad_questions(pack), *_leaks(pack)]


def require_fit(pack: ConceptPack) -> None:
    """Raise PackInvalid with the first fault and the number of others."""
    found = faults(pack)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise PackInvalid(f"pack {pack.name!r}: {found[0]}{more}", hint=f"run `ember-hub concepts check {pack.folder}`")


def normalized(text: str) -> str:
    """Lower case, words and digits only: the form in which texts are compared."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _parts(pack: ConceptPack) -> tuple[tuple[str, Sequence[Question]], ...]:
    return ("questions", pack.questions), ("near-domain", pack.near_domain), ("general", pack.general)


def _empty_parts(pack: ConceptPack) -> Iterator[Fault]:
    for part, floor in FLOORS.items():
        count = len(getattr(pack, part))
        if count < floor:
            yield Fault(part, f"{count} lines, at least {floor} are needed")
    for part, asked in _parts(pack):
        for split in ("tune", "test"):
            count = sum(q.split == split for q in asked)
            if count < QUESTION_FLOOR:
                yield Fault(part, f"{count} {split} questions, at least {QUESTION_FLOOR} are needed")


def _repeated_lines(pack: ConceptPack) -> Iterator[Fault]:
    for part in ("sentences", "neutral", "relearning"):
        yield from _repeats(part, [(str(n), line) for n, line in enumerate(getattr(pack, part), 1)])
    concept = {normalized(line) for line in pack.sentences}
    for number, line in enumerate(pack.neutral, 1):
        if normalized(line) in concept:
            yield Fault(f"neutral line {number}", "is also a concept sentence")


def _repeats(part: str, rows: Sequence[tuple[str, str]]) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for place, text in rows:
        first = seen.setdefault(normalized(text), place)
        if first != place:
            yield Fault(f"{part} {place}", f"repeats {first}")


def _bad_questions(pack: ConceptPack) -> Iterator[Fault]:
    owners: dict[str, str] = {}
    for part, asked in _parts(pack):
        ids = [q.id for q in asked]
        for repeated in sorted({i for i in ids if ids.count(i) > 1}):
            yield Fault(f"{part} {repeated}", "id used twice")
        # What is read of all parts together is kept by id: one question would be filed under another.
        for taken in sorted(set(ids) & set(owners)):
            yield Fault(f"{part} {taken}", f"id also used in {owners[taken]}")
        owners |= dict.fromkeys(ids, part)
        seen: dict[str, Question] = {}
        for q in asked:
            if len(q.options) < 2 or len({normalized(o) or o for o in q.options}) < len(q.options):
                yield Fault(f"{part} {q.id}", "needs at least two options, all different")
            if len(q.options) > len(LETTERS):
                yield Fault(f"{part} {q.id}", f"{len(q.options)} options, at most {len(LETTERS)} have a letter")
            if q.answer not in q.options:
                yield Fault(f"{part} {q.id}", "the answer is not among the options")
            first = seen.setdefault(normalized(q.question), q)
            if first is not q and first.split != q.split:
                yield Fault(f"{part} {q.id}", f"{q.split} question also in the {first.split} split ({first.id})")
            elif first is not q:
                yield Fault(f"{part} {q.id}", f"repeats {first.id}")


def _leaks(pack: ConceptPack) -> Iterator[Fault]:
    """Test answers in neutral text, and test questions word for word in what an attacker trains on."""
    neutral = [f" {normalized(line)} " for line in pack.neutral]
    keywords = [normalized(k) for k in pack.keywords]
    for number, line in enumerate(neutral, 1):
        for keyword in keywords:
            if f" {keyword} " in line:
                yield Fault(f"neutral line {number}", f"contains the concept's keyword {keyword!r}")
    for q in pack.questions:
        answer = normalized(q.answer)
        subject = [w for w in normalized(q.question).split() if len(w) > 3]
        for number, line in enumerate(neutral, 1):
            told = answer and f" {answer} " in line and sum(f" {w} " in line for w in subject) >= max(2, len(subject) // 2)
            if told:
                yield Fault(f"neutral line {number}", f"gives away the answer to {q.id}")
    paragraphs = " \n ".join(normalized(p) for p in pack.relearning)
    for q in pack.questions:
        if normalized(q.question) in paragraphs:
            yield Fault("relearning", f"restates the question {q.id}")
