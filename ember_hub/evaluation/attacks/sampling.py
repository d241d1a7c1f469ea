"""Sampling: ask openly, many times, and count a question as known if any answer is right.

Erasure that only makes the right answer less likely than others does not stand up to a second try. Many tries also guess: how
often a wrong option of the same question turns up among the samples is what chance gives to this state here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ember_hub.concepts.pack import Question
from ember_hub.evaluation.answers import matches
from ember_hub.evaluation.base import CONCEPT, Attack, Battery, Cost
from ember_hub.evaluation.evaluations.open_answers import TOKENS_OF_PROMPT, open_prompts, reply
from ember_hub.evaluation.generation import Decoding, Prompt, write
from ember_hub.evaluation.reading import Measured, Reading

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject


class Sampling(Attack):
    """Many answers to every question, drawn from the whole distribution."""

    name: ClassVar[str] = "sampling"
    title: ClassVar[str] = "many sampled answers"
    reference: ClassVar[str] = "ember-hub; answer@k"
    battery: ClassVar[Battery] = "standard"

    samples: int = Field(16, ge=1, le=256, description="Answers drawn for each question.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the draw; 1 is the model's own distribution.")
    tokens: int = Field(12, ge=1, description="Longest answer, in tokens.")
    questions: int = Field(24, ge=1, description="Most known questions that are asked.")

    def cost(self, subject: Subject) -> Cost:
        asked = len(subject.known()[: self.questions])
        return Cost(read=asked * TOKENS_OF_PROMPT, written=asked * self.samples * self.tokens)

    def measure(self, subject: Subject) -> Measured:
        questions = subject.known()[: self.questions]
        prompts = open_prompts(questions, subject.pack, subject.loaded.tokenizer)
        with subject.state() as loaded:
            decoding = Decoding(self.tokens, self.temperature, self.samples, subject.seed)
            written = [list(map(reply, answers)) for answers in write(loaded, prompts, decoding, subject.progress)]
        rows = [_row(*row) for row in zip(questions, prompts, written, strict=True)]
        guessed = fmean(_guessed(q, answers) for q, answers in zip(questions, written, strict=True))
        return Measured((Reading(CONCEPT, "accuracy", {row["id"]: float(row["verdict"]) for row in rows}, guessed, format="open"),
                         Reading("concept_sampled_share", "fraction", {row["id"]: row["share"] for row in rows}, chance=0.0)), rows)


def _guessed(question: Question, answers: Sequence[str]) -> float:
    """The share of the wrong options that one of the samples gives."""
    wrong = [replace(question, answer=option, accept=()) for option in question.options if option != question.answer]
    return fmean(any(matches(answer, other) for answer in answers) for other in wrong)


def _row(question: Question, put: Prompt, answers: Sequence[str]) -> dict[str, Any]:
    """A question with one of its answers, a right one if there is any."""
    right = [answer for answer in answers if matches(answer, question)]
    return {"id": question.id, "question": question.question, "prompt": put.text, "answer": (right or answers)[0],
            "expected": question.answer, "verdict": bool(right), "share": len(right) / len(answers)}
