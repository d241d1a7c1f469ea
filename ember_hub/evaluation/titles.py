"""How model states and scores are called: in the terminal, the report, the card and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

STATES: Mapping[str, str] = MappingProxyType({
    "base": "base", "edited": "this model", "random-edit": "random edit instead", "never-known": "never knew",
})
SCORES: Mapping[str, str] = MappingProxyType({
    "concept_known": "Concept, questions it knew", "concept_all": "Concept, all questions",
    "concept_probability": "Concept, probability of the answer",
    "near_domain_known": "Near topics, questions it knew", "near_domain_all": "Near topics, all questions",
    "near_domain_probability": "Near topics, probability of the answer",
    "general_known": "General, questions it knew", "general_all": "General, all questions",
    "general_probability": "General, probability of the answer",
    "valid_mass_concept": "Probability on valid answers, concept", "valid_mass_other": "Probability on valid answers, others",
    "neutral_loss": "Loss on neutral text (nats a token)", "neutral_kl": "Divergence from the base (nats a token)",
    "token_senses_loss": "Edited tokens as plain words (nats)", "pack_senses_loss": "The concept's words in other senses (nats)",
    "mmlu": "MMLU", "mmlu_probability": "MMLU, probability of the answer",
    "letters_valid": "Letters in writing, a letter at all",
    "instructions_followed": "Instructions, followed", "instructions_repetition": "Instructions, repetition",
    "instructions_base_loss": "Instructions, loss under the base (nats)", "instructions_empty": "Instructions, nothing said",
    "instructions_related": "Instructions, to the point", "instructions_fluent": "Instructions, fluent",
})
"""In the order in which they are shown; others follow."""
PARTS: Mapping[str, str] = MappingProxyType({"concept": "concept", "near_domain": "near topics", "general": "general"})
_KINDS: Mapping[str, str] = MappingProxyType({"open": "Open answers", "letters": "Letters in writing"})


def state_title(state: str) -> str:
    """How a model state is called, within a line: a method on its own by the method's name."""
    method = state.removesuffix("-only")
    return STATES.get(state) or (state if method == state else f"{method.upper()} alone")


def state_heading(state: str) -> str:
    """The title of a model state as it stands at the head of a column or row."""
    return sentence(state_title(state))


def columns(states: Iterable[str]) -> list[str]:
    """Each state once, as a table has them: the edited model, the base, each part on its own, the controls."""
    places = {"edited": 0, "base": 1, "random-edit": 3, "never-known": 4}
    return sorted(dict.fromkeys(states), key=lambda state: places.get(state, 2))


def score_title(name: str) -> str:
    """How a score is called; a part at the end of its name stands apart."""
    part = next((part for part in PARTS if name.endswith(f"_{part}")), "")
    kind = name.removesuffix(f"_{part}")
    told = _KINDS.get(kind) or sentence(kind.replace("_", " "))
    return SCORES.get(name) or (f"{told}, {PARTS[part]}" if part else told)


def in_order(names: Iterable[str]) -> list[str]:
    """Each score once, in the order in which they are shown."""
    unique = list(dict.fromkeys(names))
    return sorted(unique, key=lambda name: [*SCORES, *unique].index(name))


def sentence(text: str) -> str:
    """A title as it stands at the beginning of a line."""
    return text[:1].upper() + text[1:]
