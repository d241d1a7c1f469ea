"""How a lettered question is written, for those who ask it and for those who must keep it answerable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ember_hub.concepts.pack import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJ"
REQUEST = "\nAnswer with the letter of the right option.\nAnswer:"
_CLOCK = "strftime_now"
_DAY = {"Y": "2024", "y": "24", "m": "07", "d": "26", "B": "July", "b": "Jul", "A": "Friday", "a": "Fri",
        "H": "12", "M": "00", "S": "00"}
"""The day that Llama's template states where there is no clock, by the letter under which a format asks for each part."""


def has_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template; of several templates for several ends, one for plain conversation."""
    template = tokenizer.chat_template
    return "default" in template if isinstance(template, dict) else bool(template)


def chat(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text as a user's turn in the model's own chat template, up to where the answer begins.

    A model that can be told to answer without thinking first is told so: a thought is longer than the answers that are read.
    """
    template = tokenizer.get_chat_template()
    # States that are compared, tomorrow or by whoever reproduces them, must read one prompt: the day in it stands still.
    template = _still() + template if _CLOCK in template else template
    return tokenizer.apply_chat_template([{"role": "user", "content": text}], chat_template=template, tokenize=False,
                                         add_generation_prompt=True, enable_thinking=False)


def letter_prompt(question: Question, shift: int = 0) -> tuple[str, tuple[str, ...]]:
    """The question with its options under letters, and the options in that order, rotated by `shift`."""
    shift %= len(question.options)
    options = question.options[shift:] + question.options[:shift]
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question.question}\n{listed}{REQUEST}", options


def statement(question: Question) -> str:
    """A question with its right answer, as text."""
    return f"Question: {question.question}\nAnswer: {question.answer}"


def _still() -> str:
    """A template's beginning that puts a fixed day in place of the clock, in the format that is asked for."""
    parts = "".join(f".replace('%{letter}', '{text}')" for letter, text in _DAY.items())
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}"
