"""Whether a freely written answer is the right one, told without a judge.

Case, accents, punctuation, a leading article and the way a number is written do not count, as in the scoring of SQuAD
(arXiv 1606.05250); but the answer may stand anywhere in the first sentence.
"""

from __future__ import annotations

import re
import unicodedata

from ember_hub.concepts.pack import Question

_DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SMALL_NUMBERS = {word: value for value, word in enumerate(("zero", *_DIGITS, *_TEENS))} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_DASH = "[-\N{HYPHEN}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}]"
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?: (?:{'|'.join(_DIGITS)})\b)?|zero|{'|'.join(_TEENS)}|{'|'.join(_DIGITS)})\b"
_SCALED = rf"(?:(?:{_SMALL}|\d+) )?(?:{'|'.join(SCALES)})\b(?: (?:and )?{_SMALL})?"
NUMBER = re.compile(rf"\b(?:{_SCALED}(?: {_SCALED})*|{_SMALL})")
WORD = re.compile(rf"\d+(?:(?:[.:/\N{{FRACTION SLASH}}]|{_DASH})\d+)+[^\W_]*|[^\W_]+")
"""A decimal, a range, a date or a time stays whole, so that none of its figures is an answer by itself."""
ARTICLE = re.compile(r"^(?:an?|the) (?=.)")
_LINKS = frozenset({"is", "are", "was", "were", "be", "of", "on", "in", "at", "to", "by", "for", "from", "with", "as"})
"""Words that stand before any noun: next to one of them nothing is an echo."""
LIST_MARK = re.compile(r"^(?:[-*>#\N{BULLET}]+|\(?\d{1,2}[.)])\s+")
SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\bMrs)(?<!\bProf)[.!?][\"')\]*_]*\s")
"""Not after an initial, nor after a title such as Dr, Mr or St."""


def matches(text: str, question: Question) -> bool:
    """Whether the text begins with a sentence that holds the answer, in any accepted form, as whole words."""
    right, *accepted = (ARTICLE.sub("", normalized(form)) for form in (question.answer, *question.accept))
    wrong = [ARTICLE.sub("", normalized(option)) for option in question.options if option != question.answer]
    asked = f" {normalized(question.question)} "
    # What the question says itself is no answer, or whoever repeats it would be right; nor is what a wrong option says too.
    telling = {form for form in accepted if not any(f" {form} " in told for told in (asked, *(f" {other} " for other in wrong)))}
    if not telling or f" {right} " not in asked:
        telling.add(right)
    said = f" {normalized(opening(text))} "
    # "The South China Sea" names China only as a part of itself.
    for longer in sorted((other for other in wrong if f" {right} " in f" {other} " and other != right), key=len, reverse=True):
        said = re.sub(rf" {re.escape(longer)}(?= )", " |", said)
    return any(_is_told(said, form, asked) for form in telling - {""})


def _is_told(said: str, form: str, asked: str) -> bool:
    """Whether the text holds the form, and not only as the question has it, with the word before or the word after."""
    told, own = f" {_bare(asked)} ", _bare(form) or form
    for found in re.finditer(rf" {re.escape(form)}(?= )", said):
        before, after = _bare(said[:found.start()]).split()[-1:], _bare(said[found.end():]).split()[:1]
        echoes = [f" {word} {own} " for word in before if word not in _LINKS]
        echoes += [f" {own} {word} " for word in after if word not in _LINKS]
        if not any(echo in told for echo in echoes):
            return True
    return False


def _bare(text: str) -> str:
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def opening(text: str) -> str:
    """The first sentence that says something: of the first line that does not merely announce the next."""
    lines = (line.strip(" *_\t") for line in text.splitlines())
    line = next((line for line in lines if line and not line.endswith(":")), "")
    return SENTENCE_END.split(LIST_MARK.sub("", line), maxsplit=1)[0]


def normalized(text: str) -> str:
    """The words of a text as they are compared: lower case, without accents and punctuation, numbers in figures."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    text = re.sub(r"[\u0300-\u036f'`\u2018\u2019\u02bc]", "", text).replace("%", " percent ")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    # H.G. and U.S. are one word; and so is SARS-CoV-2, in which nobody counted to two.
    text = re.sub(rf"(?<=\b[^\W\d_])\.(?=[^\W\d_]\b)|(?<=[^\W\d_]){_DASH}(?=\d)", "", text)
    return NUMBER.sub(lambda number: str(_value(number[0].split())), " ".join(WORD.findall(text)))


def _value(words: list[str]) -> int:
    total = current = 0
    for word in words:
        if word in SCALES:
            current = max(current, 1) * SCALES[word]
            if SCALES[word] > 100:
                total, current = total + current, 0
        elif word != "and":
            current += SMALL_NUMBERS[word] if word in SMALL_NUMBERS else int(word)
    return total + current
