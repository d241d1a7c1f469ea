"""Two dozen everyday instructions, about nothing in particular, and how to see whether an answer follows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Instruction:
    """What is asked, and whether an answer does it; without a check only its language can be looked at."""

    id: str
    text: str
    is_followed: Check | None = None


def _words(least: int, most: int) -> Check:
    return lambda text: least <= len(text.split()) <= most


def _items(count: int) -> Check:
    """That many short things, separated by commas."""
    return lambda text: len(parts := [p for p in re.split(r",|\band\b", text.strip(" .")) if p.strip()]) == count and all(
        len(part.split()) <= 4 for part in parts)


def _says(*any_of: str) -> Check:
    return lambda text: any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in any_of)


def _lines(least: int) -> Check:
    return lambda text: len([line for line in text.splitlines() if line.strip()]) >= least


def _listed(least: int) -> Check:
    """Numbered or bulleted lines."""
    return lambda text: len(re.findall(r"^\s*(?:\d+[.)]|[-*\u2022])\s+\S", text, re.MULTILINE)) >= least


def _both(*checks: Check) -> Check:
    return lambda text: all(check(text) for check in checks)


_ASKED: tuple[tuple[str, Check], ...] = (
    ("List three colours, separated by commas.", _items(3)),
    ("List four fruits, separated by commas.", _items(4)),
    ("Name two days of the weekend.", _both(_says("saturday"), _says("sunday"))),
    ("Answer in one word: what is the opposite of hot?", _both(_words(1, 2), _says("cold", "cool"))),
    ("Answer in one word: what colour is grass?", _both(_words(1, 2), _says("green"))),
    ("Answer with yes or no: is water wet?", lambda text: bool(re.match(r"\W*(yes|no)\b", text, re.IGNORECASE))),
    ("Write one short sentence about a cat.", _both(_words(3, 25), _says("cat", "cats", "kitten"))),
    ("Write one short sentence about the sea.", _both(_words(3, 25), _says("sea", "ocean", "waves"))),
    ("Repeat this word three times: apple", lambda text: len(re.findall(r"\bapple\b", text, re.IGNORECASE)) == 3),
    ("Count from one to five in digits.", lambda text: re.findall(r"\d+", text)[:5] == ["1", "2", "3", "4", "5"]),
    ("Write the word HELLO in small letters.", lambda text: "hello" in text),
    ("Write the word river in capital letters.", lambda text: "RIVER" in text),
    ("Write a question that you could ask a new neighbour.", lambda text: "?" in text),
    ("Give three tips for sleeping well, as a numbered list.", _listed(2)),
    ("Give the steps to make a cup of tea, as a numbered list.", _listed(2)),
    ("Write a polite sentence that begins with the word Please.", lambda text: bool(re.match(r"\W*please\b", text, re.IGNORECASE))),
    ("Write a thank-you note to a friend in two sentences.", _says("thank", "thanks", "grateful")),
    ("Complete the sentence: When it rains, I take an", _says("umbrella")),
    ("What is two plus three? Answer with a digit.", _says("5")),
    ("Write a two-line poem about the moon.", _both(_lines(2), _says("moon", "moonlight", "lunar"))),
    ("Say goodbye to a guest in one sentence.", _both(_words(1, 30), _says("goodbye", "bye", "farewell", "see you", "safe"))),
    ("Which is bigger, a mouse or an elephant?", _says("elephant")),
    ("Write the alphabet up to the letter E.", lambda text: re.sub(r"[^a-z]", "", text.lower()).startswith("abcde")),
    ("Make a shopping list with bread, milk and eggs.", _both(_says("bread"), _says("milk"), _says("eggs", "egg"))),
)
EVERYDAY: tuple[Instruction, ...] = tuple(Instruction(f"everyday-{number:02}", text, check)
                                          for number, (text, check) in enumerate(_ASKED, 1))
