"""How a question is put to a model: as an open prompt whose answers compete by likelihood, or as lettered options.

Every format has several presentations: wordings of the prompt, or orders of the options. Those of the first half
choose which questions the base knows; those of the second half measure. No number comes from a presentation that
had a say in choosing its questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ember_hub.concepts.pack import Question
from ember_hub.concepts.prompts import LETTERS, chat, has_chat, letter_prompt
from ember_hub.evaluation.token_tree import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Format = Literal["answer", "letter"]
Purpose = Literal["choose", "measure"]
CHAT = "{chat}"
"""Marks the wording that goes through the model's own chat template."""
WORDINGS: dict[Purpose, tuple[str, ...]] = {
    "choose": ("Question: {question}\nAnswer:", CHAT),
    "measure": ("Q: {question}\nA:", "{question} The correct answer is:"),
}
ORDERS = 2
"""Orders of the options for each purpose, where there are as many."""
_TOKENS: dict[Format, int] = {"answer": 25, "letter": 45}
"""About what a model reads of one presentation of a question with all its options."""


@dataclass(frozen=True)
class Frame:
    """What stands around a question: text before it, and an answer already begun, which the model has to go on from."""

    before: str = ""
    begun: str = ""


BARE = Frame()
"""The question by itself."""


@dataclass(frozen=True)
class Posed:
    """A question in one presentation: a text for each option, and which of them is right."""

    question: Question
    presentation: int
    texts: tuple[Text, ...]
    right: int


def tokens_read(questions: int, format: Format, most: int | None = None) -> int:
    """About how many tokens are read of so many questions in every presentation that measures, or in the first few."""
    presentations = len(WORDINGS["measure"]) if format == "answer" else ORDERS
    return questions * min(presentations, most or presentations) * _TOKENS[format]


def rotations(purpose: Purpose, options: int) -> range:
    """By how many places so many options are turned: the first orders choose, others measure."""
    first = min(ORDERS, options // 2)
    return range(first) if purpose == "choose" else range(first, min(first + ORDERS, options))


def pose(questions: Sequence[Question], format: Format, purpose: Purpose, tokenizer: PreTrainedTokenizerBase,
         most: int | None = None, frame: Frame = BARE) -> list[Posed]:
    """Every question in every presentation of that format and purpose (or the first few), tokenized in one pass."""
    written = [(q, v, *_write(q, format, purpose, v, tokenizer, frame)) for q in questions
               for v in range(len(WORDINGS[purpose] if format == "answer" else rotations(purpose, len(q.options))))[:most]]
    texts = _encode([(prompt, answers, raw) for _, _, prompt, answers, raw, _ in written], tokenizer)
    return [Posed(q, v, texts[i], right) for i, (q, v, _, _, _, right) in enumerate(written)]


def _write(q: Question, format: Format, purpose: Purpose, variant: int, tokenizer: PreTrainedTokenizerBase, frame: Frame
           ) -> tuple[str, list[str], bool, int]:
    """Prompt, the continuation for each option, whether special tokens are already in the text, index of the right one."""
    if format == "answer":
        wording = WORDINGS[purpose][variant]
        in_chat, answers, right = wording == CHAT, q.options, q.right
        prompt = ("{question}" if in_chat else wording).format(question=q.question)
    else:
        prompt, options = letter_prompt(q, rotations(purpose, len(q.options))[variant])
        in_chat, answers, right = True, LETTERS[: len(options)], options.index(q.answer)
    prompt = f"{frame.before}\n\n{prompt}" if frame.before else prompt
    if in_chat and has_chat(tokenizer):
        # After a chat template an answer opens the line; anywhere else a space goes before it.
        space = " " if frame.begun else ""
        return chat(prompt, tokenizer) + frame.begun, [space + answer for answer in answers], True, right
    begun = " " + frame.begun if frame.begun else ""
    return prompt + begun, [" " + answer for answer in answers], False, right


def _encode(written: Sequence[tuple[str, list[str], bool]], tokenizer: PreTrainedTokenizerBase) -> list[tuple[Text, ...]]:
    """Tokenize prompt and continuation together, and split where the prompt's own tokens end."""
    encoded: dict[bool, dict[str, tuple[int, ...]]] = {}
    for raw in (True, False):
        texts = sorted({t for p, answers, is_raw in written if is_raw == raw for t in (p, *(p + a for a in answers))})
        ids = tokenizer(texts, add_special_tokens=not raw).input_ids if texts else []
        encoded[raw] = {text: tuple(i) for text, i in zip(texts, ids, strict=True)}
    return [tuple(_text(encoded[raw][prompt], encoded[raw][prompt + answer]) for answer in answers)
            for prompt, answers, raw in written]


def _text(prompt: tuple[int, ...], whole: tuple[int, ...]) -> Text:
    # A tokenizer may merge across the seam: then the merged token is scored too, for every option alike.
    seam = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return Text(whole, max(1, min(seam, len(whole) - 1)))
