"""How the model writes when it is told to do something: whether it does it, and whether that is still language.

Everything but the optional judge is offline. What a model writes is scored by the base, which knows what ordinary text looks
like: an erasure that spoils the language shows there, repetition beside it, since the base finds loops easy to predict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from ember_hub.errors import EvaluationError
from ember_hub.evaluation.base import Battery, Cost
from ember_hub.evaluation.evaluations.instructions import EVERYDAY, Instruction
from ember_hub.evaluation.generation import Decoding, Prompt, Written, prompt, write
from ember_hub.evaluation.judge import Judge, Judged
from ember_hub.evaluation.reading import Better, Measured, Reading
from ember_hub.evaluation.score import Unit
from ember_hub.evaluation.token_tree import Text, token_logprobs

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject
    from ember_hub.source.load import LoadedModel

TOKENS_OF_PROMPT = 45
GRAM = 3
MARK = "Instruction:"
JUDGEMENTS: Mapping[str, str] = {
    "related": """How well does the answer relate to the instruction? 0: not at all. 1: in part. 2: fully.

Instruction: {instruction}
Answer: {answer}

Reply with 0, 1 or 2, and nothing else.""",
    "fluent": """How fluent is this text, whatever it says? It may be cut off at its end. 0: broken. 1: readable, with flaws. \
2: natural.

Text: {answer}

Reply with 0, 1 or 2, and nothing else.""",
}
BEST = 2
QUANTITIES: Mapping[str, tuple[str, Unit, Better]] = {
    "instructions_followed": ("verdict", "accuracy", "higher"),
    "instructions_repetition": ("repetition", "fraction", "lower"),
    "instructions_base_loss": ("base_loss", "nats", "lower"),
    "instructions_empty": ("empty", "fraction", "lower"),
    "instructions_related": ("related", "fraction", "higher"),
    "instructions_fluent": ("fluent", "fraction", "higher"),
}
"""Readings, each with the field of a sample that it is read from."""


class Instructions(Judged):
    """Everyday instructions: followed or not, and in what language."""

    name: ClassVar[str] = "instructions"
    title: ClassVar[str] = "everyday instructions"
    reference: ClassVar[str] = "ember-hub; judgements as in EMBER, arXiv 2606.03695"
    battery: ClassVar[Battery] = "standard"
    scores: ClassVar[tuple[str, ...]] = tuple(QUANTITIES)

    source: str | None = Field(None, description="JSONL file with a field instruction in each line, in place of the built-in ones.")
    instructions: int = Field(150, ge=1, description="Most instructions that are given.")
    tokens: int = Field(48, ge=1, description="Longest answer, in tokens.")

    @field_validator("source")
    @classmethod
    def _is_there(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_file():
            raise ValueError("there is no such file")
        return path

    def sources(self) -> Sequence[Path]:
        return () if self.source is None else (Path(self.source),)

    def cost(self, subject: Subject) -> Cost:
        given = len(self._given())
        return Cost(read=given * (2 * TOKENS_OF_PROMPT + self.tokens), written=given * self.tokens)

    def measure(self, subject: Subject) -> Measured:
        given = self._given()
        prompts = [prompt(subject.loaded.tokenizer, i.text, f"{MARK} {i.text}\nResponse:") for i in given]
        with subject.state() as loaded:
            written = [answer for answer, in write(loaded, prompts, Decoding(self.tokens), subject.progress)]
        losses = base_losses(subject.loaded, prompts, written)
        samples = [_row(*row) for row in zip(given, prompts, written, losses, strict=True)]
        details = {"tokens": sum(len(answer.ids) for answer in written) / len(written), "limit": self.tokens}
        if judge := self._judge():
            details["unrated"] = _rate(judge, samples, subject)
        return Measured(tuple(_readings(samples)), samples, details)

    def _given(self) -> Sequence[Instruction]:
        return (EVERYDAY if self.source is None else _read(Path(self.source)))[: self.instructions]


def repetition(ids: Sequence[int]) -> float:
    """Share of the three-token sequences that stood there before: 0 in a text without repeats, near 1 in a loop."""
    grams = [tuple(ids[i:i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def base_losses(base: LoadedModel, prompts: Sequence[Prompt], written: Sequence[Written]) -> list[float | None]:
    """The base's loss on every answer after its prompt, in nats per token; None where nothing was written."""
    texts = [Text(put.ids + answer.ids, len(put.ids)) for put, answer in zip(prompts, written, strict=True) if answer.ids]
    losses = iter([-float(logprobs.double().mean()) for logprobs in token_logprobs(base, texts)])
    return [next(losses) if answer.ids else None for answer in written]


def _read(path: Path) -> Sequence[Instruction]:
    found, number = [], 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip() and (text := json.loads(line)["instruction"].strip()):
                    found.append(Instruction(f"{path.stem}-{number}", text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{path}:{number}: not an instruction ({error!r})",
                              hint='write {"instruction": "..."} on one line') from error
    if not found:
        raise EvaluationError(f"{path} holds no instruction", hint='write {"instruction": "..."} on one line')
    return found


def _row(given: Instruction, put: Prompt, answer: Written, loss: float | None) -> dict[str, Any]:
    # A model without a chat template goes on to invent the next instruction, or does nothing else.
    reply = f"\n{answer.text}".partition(f"\n{MARK}")[0].strip()
    followed = given.is_followed(reply) if given.is_followed else None
    return {"id": given.id, "instruction": given.text, "prompt": put.text, "answer": reply, "verdict": followed,
            "repetition": repetition(answer.ids), "base_loss": loss, "empty": not reply}


def _rate(judge: Judge, samples: Sequence[dict[str, Any]], subject: Subject) -> int:
    """Write the judge's ratings into the rows, and count those that it did not give.

    An empty answer is rated 0 without asking, and so is one that the judge would not rate. Source: EMBER (arXiv 2606.03695).
    """
    asked, unrated = [row for row in samples if not row["empty"]], 0
    for what, wording in JUDGEMENTS.items():
        requests = [wording.format(instruction=row["instruction"], answer=row["answer"]) for row in asked]
        ratings = dict(zip((row["id"] for row in asked), judge.rate(requests, BEST, subject.progress), strict=True))
        unrated += sum(rating is None for rating in ratings.values())
        for row in samples:
            row[what] = (ratings.get(row["id"]) or 0) / BEST
    return unrated


def _readings(samples: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """One reading for each quantity that any answer has."""
    for name, (field, unit, better) in QUANTITIES.items():
        if values := {row["id"]: float(row[field]) for row in samples if row.get(field) is not None}:
            yield Reading(name, unit, values, better=better)
