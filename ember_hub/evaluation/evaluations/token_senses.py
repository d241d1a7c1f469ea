"""Coherence around the edited tokens: can the model still handle them where they are plain words that stand for nothing?

A name in a list, a password, the letters on a boat: the text goes on by repeating the token and then turns to something else. Text
that does not come back to the token would show nothing: after a row of noise the model writes ordinary text as well as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ember_hub.concepts.background import letters_of, surfaces
from ember_hub.errors import EvaluationError
from ember_hub.evaluation.base import Battery, Cost, Evaluation
from ember_hub.evaluation.language import neutral_loss
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.evaluation.token_tree import Text, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ember_hub.evaluation.subject import Subject

SENSES: tuple[tuple[str, str], ...] = (
    ("Names on the list: Maria,{token}, Thomas.\nThe same names again: Maria,", "{token}, Thomas."),
    ("Password:{token}\nRepeat the password:", "{token}\nThank you, welcome back."),
    ("A boat called{token} lies in the harbour. The letters on its side read", "{token}, and it is painted white."),
    ("She wrote the word{token} on the board, and the children copied the word", "{token} into their books."),
)
"""A token in roles in which any string may stand, and how the text goes on."""
"""A pack's own sentences that use the concept's words in another meaning, one a line."""
SHORTEST_WORD = 3
TOKENS_OF_TEXT = 20


class TokenSenses(Evaluation):
    """Loss on text that repeats an edited token as a name or a string, and on the pack's own sentences."""

    name: ClassVar[str] = "token-senses"
    title: ClassVar[str] = "edited tokens as plain words"
    reference: ClassVar[str] = "ember-hub"
    battery: ClassVar[Battery] = "quick"
    scores: ClassVar[tuple[str, ...]] = ("token_senses_loss", "pack_senses_loss")

    tokens: int = Field(16, ge=1, description="Most edited tokens that are looked at; whole words come first.")

    def cost(self, subject: Subject) -> Cost:
        texts = min(self.tokens, len(subject.tokens)) * len(SENSES) + len(subject.pack.senses)
        return Cost(read=texts * TOKENS_OF_TEXT)

    def measure(self, subject: Subject) -> Measured:
        """Both losses, in nats per token: by edited token, and by the pack's own sentence. What there is none of is not read."""
        senses = _senses(subject.loaded.tokenizer, subject.tokens, self.tokens)
        sentences = subject.pack.senses
        with subject.state() as loaded:
            logprobs = token_logprobs(loaded, [sense.text for sense in senses], progress=subject.progress, title="token senses")
            own = neutral_loss(loaded, sentences, subject.progress) if sentences else []
        losses = [-float(l.double().mean()) for l in logprobs]
        if not all(map(isfinite, (*losses, *own))):
            raise EvaluationError("the model computes NaN on text with edited tokens",
                                  hint="its edited rows are broken, or too large for its number type")
        of_tokens: dict[str, list[float]] = {}
        for sense, loss in zip(senses, losses, strict=True):
            of_tokens.setdefault(str(sense.token), []).append(loss)
        found = {"token_senses_loss": {token: fmean(values) for token, values in of_tokens.items()},
                 "pack_senses_loss": {str(i): loss for i, loss in enumerate(own)}}
        samples = [{"token": sense.token, "prompt": sense.prompt, "answer": sense.continuation, "loss": loss}
                   for sense, loss in zip(senses, losses, strict=True)]
        return Measured(tuple(Reading(name, "nats", values, better="lower") for name, values in found.items() if values), samples)


@dataclass(frozen=True)
class _Sense:
    """One edited token in one role."""

    token: int
    prompt: str
    continuation: str
    text: Text
    """The continuation is scored."""


def _senses(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], most: int) -> list[_Sense]:
    """Every role of the first tokens that are read as themselves in all of them."""
    found: list[_Sense] = []
    for token, surface in _whole_words_first(tokenizer, tokens):
        # What does not begin a word would melt into the one before it.
        slot = surface if surface.startswith(" ") else f' "{surface}"'
        roles = [(opening.format(token=slot), continuation.format(token=slot)) for opening, continuation in SENSES]
        encoded = tokenizer([text for prompt, continuation in roles for text in (prompt, prompt + continuation)]).input_ids
        senses = [_Sense(token, *role, _text(prompt, whole))
                  for role, prompt, whole in zip(roles, encoded[::2], encoded[1::2], strict=True)]
        if all(token in sense.text.ids[:sense.text.start] for sense in senses):
            found += senses
        if len(found) == most * len(SENSES):
            break
    return found


def _whole_words_first(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[tuple[int, str]]:
    """Tokens with their surfaces; within words and within the rest the frequent, which have low ids, come first."""
    plain = sorted(set(tokens) - set(tokenizer.all_special_ids))
    shown = list(zip(plain, surfaces(tokenizer, plain), strict=True))
    return sorted(shown, key=lambda pair: not (pair[1].startswith(" ") and len(letters_of(pair[1])) >= SHORTEST_WORD))


def _text(prompt: Sequence[int], whole: Sequence[int]) -> Text:
    """What comes after the prompt; where a tokenizer merges across the seam, the merged token is scored too."""
    shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return Text(tuple(whole), shared)
