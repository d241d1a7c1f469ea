"""Lettered questions answered in writing: the model has to say a letter, and what it says is read as a person would read it.

The examination compares probabilities, which a model that writes nothing sensible any more can still order rightly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ember_hub.concepts.pack import Question
from ember_hub.concepts.prompts import LETTERS, letter_prompt
from ember_hub.evaluation.answers import normalized, opening
from ember_hub.evaluation.base import Battery, Cost, Evaluation
from ember_hub.evaluation.examination import Part
from ember_hub.evaluation.generation import Decoding, prompt, write
from ember_hub.evaluation.presentation import rotations
from ember_hub.evaluation.reading import Measured, Reading

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject

TOKENS = 8
TOKENS_OF_PROMPT = 90
ASKED: tuple[Part, ...] = ("concept", "near_domain")
_OPEN, _CLOSE = r"(?:[\s*_`\"'(\[{$]|\\boxed|\\text)*", r"[*_`\"')\]}$]*"
# "A wizard" is no letter, but "A is right" and "A because" are.
_END = rf"{_CLOSE}(?:\s*$|\s*\n|[.):,;]+(?!\w)|\s+(?:is|are|because|since|as|[-\N{{EN DASH}}\N{{EM DASH}}=])(?!\w))"
_DENIED = rf"{_CLOSE}[,:;]?\s+(?:is|was)(?:\s+(?:not|never|incorrect|wrong|false)\b|n['\u2019]t\b)"
_LETTER = rf"{_OPEN}(?P<letter>[A-Z])(?!{_DENIED}){_END}"
_AT_START = re.compile(_LETTER)
# "A, B", "A, B and C", or a list of the options over again.
_FURTHER = re.compile(rf"(?:\A|\n|\A(?:{_OPEN}[A-Z]{_CLOSE}[.,;)]*\s+)?(?i:and|or)\s+){_LETTER}")
_NAMED = re.compile(rf"(?i:\b(?:answer|option|choice|letter)\b(?:[^.:\n]*?\b(?:is|be))?(?:\s+option)?\s*:?){_LETTER}")
# A small letter may be an article that was cut off, unless it stands alone.
_SMALL = re.compile(rf"(?:\s*(?i:answer)\s*:)?{_OPEN}(?P<letter>[a-z])(?:{_CLOSE}[.:]?\s*$|\)(?!\w))")


class LetterGeneration(Evaluation):
    """Whether the model still says the right letter when it has to write it."""

    name: ClassVar[str] = "letter-generation"
    title: ClassVar[str] = "letters in writing"
    reference: ClassVar[str] = "EMBER, arXiv 2606.03695"
    battery: ClassVar[Battery] = "standard"
    scores: ClassVar[tuple[str, ...]] = (*(f"letters_{part}" for part in ASKED), "letters_valid")

    questions: int = Field(40, ge=1, description="Most known questions of each part that are asked.")

    def cost(self, subject: Subject) -> Cost:
        asked = sum(len(self._asked(subject, part)) for part in ASKED)
        return Cost(read=asked * TOKENS_OF_PROMPT, written=asked * TOKENS)

    def measure(self, subject: Subject) -> Measured:
        asked = [(part, question) for part in ASKED for question in self._asked(subject, part)]
        lettered = [letter_prompt(question, rotations("measure", len(question.options))[0]) for _, question in asked]
        prompts = [prompt(subject.loaded.tokenizer, text, text) for text, _ in lettered]
        with subject.state() as loaded:
            written = write(loaded, prompts, Decoding(TOKENS), subject.progress)
        samples = [_row(part, question, put.text, answer.text, options)
                   for (part, question), put, (answer,), (_, options) in zip(asked, prompts, written, lettered, strict=True)]
        return Measured(tuple(_readings(samples, asked)), samples)

    def _asked(self, subject: Subject, part: Part) -> list[Question]:
        known = subject.syllabus.known["test"][part]
        asked = subject.pack.asked("questions" if part == "concept" else part, "test")
        return [question for question in asked if question.id in known][: self.questions]


def meant(text: str, options: Sequence[str]) -> int | None:
    """The option that an answer means, by its letter, else by its text; None when it means none, or more than one."""
    letters = LETTERS[: len(options)]
    for pattern in (_AT_START.match, _SMALL.match, _NAMED.search):
        if (found := pattern(text)) and (letter := found["letter"].upper()) in letters:
            index, (begun, rest) = letters.index(letter), (text[found.start("letter"):], text[found.end():].strip())
            if _is_initial(begun, rest, options, index):
                return _named(begun, options)
            rest = rest.removeprefix(options[index])
            return None if {further["letter"] for further in _FURTHER.finditer(rest)} & set(letters) - {letter} else index
    return _named(text, options)


def _is_initial(begun: str, rest: str, options: Sequence[str], index: int) -> bool:
    """Whether a letter is the beginning of an option's text, as that of A. A. Milne, and not the name of the one at `index`."""
    said, after, own = f"{normalized(begun)} ", normalized(rest), normalized(options[index])
    if after.startswith(own) or own.startswith(after):
        return False
    return any(" " in words and said.startswith(f"{words} ") for words in map(normalized, options))


def _named(text: str, options: Sequence[str]) -> int | None:
    """The one option whose text the first sentence holds."""
    said = f" {normalized(opening(text))} "
    named = {i: words for i, option in enumerate(options) if (words := normalized(option)) and f" {words} " in said}
    # "the South China Sea" names China only as a part of itself.
    whole = [i for i, words in named.items() if not any(f" {words} " in f" {other} " for other in named.values() if other != words)]
    return whole[0] if len(whole) == 1 else None


def _row(part: Part, question: Question, put: str, answer: str, options: Sequence[str]) -> dict[str, Any]:
    chosen = meant(answer, options)
    return {"id": question.id, "part": part, "question": question.question, "prompt": put, "answer": answer,
            "expected": LETTERS[options.index(question.answer)], "chosen": None if chosen is None else LETTERS[chosen],
            "verdict": chosen is not None and options[chosen] == question.answer}


def _readings(samples: Sequence[dict[str, Any]], asked: Sequence[tuple[Part, Question]]) -> Iterator[Reading]:
    for part in ASKED:
        if values := {row["id"]: float(row["verdict"]) for row in samples if row["part"] == part}:
            yield Reading(f"letters_{part}", "accuracy", values, fmean(1 / len(q.options) for of, q in asked if of == part))
    if samples:
        yield Reading("letters_valid", "fraction", {row["id"]: float(row["chosen"] is not None) for row in samples})
