"""Questions answered freely: what the model says when nobody offers it options.

The verdict is `answers.matches`, offline and repeatable, or a judge's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.evaluation.answers import matches
from ember_hub.evaluation.base import Battery, Cost
from ember_hub.evaluation.examination import PARTS, Part
from ember_hub.evaluation.generation import Decoding, Prompt, Written, prompt, write
from ember_hub.evaluation.judge import Judge, Judged
from ember_hub.evaluation.presentation import WORDINGS
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ember_hub.evaluation.subject import Subject

TOKENS_OF_PROMPT = 60
ALONE = "{question} Reply with the answer only."
"""What is asked of a model that talks; one that continues text is shown what an answer looks like."""
SHOWN = 3
JUDGEMENT = """Does the answer to this question name the right thing? Other words for it count, and so does a longer answer \
that holds it.

Question: {question}
Right answer: {right}
Answer to be judged: {answer}

Reply with 1 if it does, with 0 if not, and with nothing else."""


class OpenAnswers(Judged):
    """Known questions on the concept, its neighbours and the world, answered in the model's own words."""

    name: ClassVar[str] = "open-answers"
    title: ClassVar[str] = "open answers"
    reference: ClassVar[str] = "EMBER, arXiv 2606.03695"
    battery: ClassVar[Battery] = "quick"
    scores: ClassVar[tuple[str, ...]] = tuple(f"open_{part}" for part in PARTS)

    questions: int = Field(16, ge=1, description="Most questions of each part; those that the base knows come first.")
    tokens: int = Field(16, ge=1, description="Longest answer, in tokens.")

    def cost(self, subject: Subject) -> Cost:
        asked = len(self._asked(subject))
        return Cost(read=asked * TOKENS_OF_PROMPT, written=asked * self.tokens)

    def measure(self, subject: Subject) -> Measured:
        asked = self._asked(subject)
        questions = [question for _, question in asked]
        prompts = open_prompts(questions, subject.pack, subject.loaded.tokenizer)
        with subject.state() as loaded:
            texts = [reply(answer) for answer, in write(loaded, prompts, Decoding(self.tokens), subject.progress)]
        judge, details = self._judge(), {}
        if judge:
            ratings = judged(judge, questions, texts, subject.progress)
            verdicts, details = [rating == 1 for rating in ratings], {"unrated": ratings.count(None)}
        else:
            verdicts = list(map(matches, texts, questions))
        samples = [_row(*row) for row in zip(asked, prompts, texts, verdicts, strict=True)]
        parts = {part: {row["id"]: float(row["verdict"]) for row in samples if row["part"] == part} for part in PARTS}
        readings = [Reading(f"open_{part}", "accuracy", values, chance=0.0) for part, values in parts.items() if values]
        return Measured(readings, samples, details)

    def _asked(self, subject: Subject) -> list[tuple[Part, Question]]:
        asked = []
        for part in PARTS:
            known = subject.syllabus.known["test"][part]
            questions = subject.pack.asked("questions" if part == "concept" else part, "test")
            asked += [(part, q) for q in sorted(questions, key=lambda q: q.id not in known)[: self.questions]]
        return asked


def open_prompts(questions: Sequence[Question], pack: ConceptPack, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The questions without their options, in a wording that had no say in choosing what is known."""
    wording = WORDINGS["measure"][0]
    shown = "".join(f"{wording.format(question=q.question)} {q.answer}\n\n" for q in pack.asked("general", "tune")[:SHOWN])
    return [prompt(tokenizer, ALONE.format(question=q.question), shown + wording.format(question=q.question)) for q in questions]


def reply(written: Written) -> str:
    """The answer alone: a model without a chat template goes on to invent the next question."""
    # At the very start too: then nothing was answered.
    return f"\n{written.text}".partition(f"\n{WORDINGS['measure'][0].partition(' ')[0]}")[0].strip()


def judged(judge: Judge, questions: Sequence[Question], texts: Sequence[str], progress: Progress) -> list[int | None]:
    """The judge's rating of every answer, 1 for a right one; an empty one is wrong without asking, None is not rated."""
    asked = [i for i, text in enumerate(texts) if text]
    requests = [JUDGEMENT.format(question=questions[i].question, right=questions[i].answer, answer=texts[i]) for i in asked]
    ratings = dict(zip(asked, judge.rate(requests, 1, progress), strict=True))
    return [ratings.get(i, 0) for i in range(len(texts))]


def _row(asked: tuple[Part, Question], put: Prompt, text: str, verdict: bool) -> dict[str, Any]:
    part, question = asked
    return {"id": question.id, "part": part, "question": question.question, "prompt": put.text, "answer": text,
            "expected": question.answer, "verdict": verdict}
