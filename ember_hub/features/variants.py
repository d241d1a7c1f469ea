"""Other spellings of accepted words: case, space and simple inflections, over the whole vocabulary.

A concept's texts hold ` Harry` and `wizards`; the vocabulary also has `HARRY`, ` Wizard` and `wizard`, and an edit that
leaves them alone is undone by typing in capitals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ember_hub.concepts.background import Tokenizer, background, letters_of, surfaces
from ember_hub.concepts.labels import TokenLabels
from ember_hub.concepts.spelling import family
from ember_hub.features import statistics
from ember_hub.features.evidence import TokenEvidence
from ember_hub.features.factorization import Factorization
from ember_hub.features.selection import ConceptRows

ReadRows = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class VariantSettings:
    """min_cosine: between the centred rows of a variant and of the accepted word it belongs to.

    min_kinship: mean cosine with the nearest five of the surest tokens, those of the same word left out.
    min_purity: what the variant's purity would be if it were used in the concept's texts as often as its word.
    min_letters: shorter words have too many lookalikes.
    """

    min_cosine: float = 0.4
    min_kinship: float = 0.15
    min_purity: float = 0.5
    min_letters: int = 3


def adopt(rows: ConceptRows, read_rows: ReadRows, labels: TokenLabels, factorization: Factorization,
          tokenizer: Tokenizer, settings: VariantSettings = VariantSettings()) -> ConceptRows:
    """Add the variants of the accepted whole words, each with a contribution from its word's own features.

    read_rows: gives the embedding's rows (n, d) of some ids (n,), in any dtype; called once, for the candidates and for what
        they are compared with.

    A variant is refused when its row does not resemble the word's (` ron` is rum to the model, not Ron), when it is far
    from the concept's other words (` axis` is no power at war), or when it is too common elsewhere.
    """
    found = _candidates(rows, labels, tokenizer, settings)
    if not found:
        return rows
    neighbours = _Neighbours.read(read_rows, [candidate for candidate, _, _ in found], rows, factorization)
    measured = _measure(found, neighbours, labels, tokenizer)
    judged: list[TokenEvidence] = []
    taken: list[tuple[int, Tensor]] = []
    for (candidate, shown, _), centred, (best, *values) in zip(found, neighbours.centred, measured, strict=True):
        near, kin, purity = values
        fits = near >= settings.min_cosine and kin >= settings.min_kinship and purity >= settings.min_purity
        G = None
        if fits:
            G = _contribution(centred, rows.G[best], rows.F)
            taken.append((candidate, G))
        reason = (f"{'variant' if fits else 'refused as a variant'} of token {int(rows.token_ids[best])}: "
                  f"cosine {near:.2f}, kinship {kin:.2f}, purity {purity:.2f}")
        judged.append(_evidence((candidate, shown, int(rows.token_ids[best])), kin, purity, G, reason))
    return _with(rows, taken, judged)


@dataclass(frozen=True)
class _Neighbours:
    """The candidates among the accepted tokens and the surest ones: what their rows say.

    centred: (candidates, d), less the mean of V'; own, company: their cosines with the accepted and with the surest tokens.
    """

    accepted: Tensor
    surest: Tensor
    centred: Tensor
    own: Tensor
    company: Tensor

    @classmethod
    def read(cls, read_rows: ReadRows, candidates: Sequence[int], rows: ConceptRows, factorization: Factorization) -> _Neighbours:
        surest = factorization.token_ids[statistics.surest(factorization.belief)]
        parts = (torch.tensor(candidates), rows.token_ids, surest)
        these, own, company = read_rows(torch.cat(parts)).split([len(part) for part in parts])
        units = factorization.unit(these)
        return cls(rows.token_ids, surest, these.float() - factorization.mean, units @ factorization.unit(own).T,
                   units @ factorization.unit(company).T)


def _measure(found: Sequence[tuple[int, str, list[int]]], neighbours: _Neighbours, labels: TokenLabels, tokenizer: Tokenizer
             ) -> list[tuple[int, float, float, float]]:
    """For each candidate: the place of its nearest source, their cosine, its kinship, and its purity in its place."""
    surest, place = neighbours.surest, {int(i): position for position, i in enumerate(neighbours.accepted)}
    counts = dict(zip(labels.token_ids.tolist(), labels.counts.tolist(), strict=True))
    total = sum(counts.values())
    rates = _rates([candidate for candidate, _, _ in found], tokenizer)
    measured = []
    for position, (candidate, _, sources) in enumerate(found):
        at = torch.tensor([place[i] for i in sources])
        near = neighbours.own[position, at]
        family = torch.isin(surest, torch.tensor([*sources, candidate]))
        others = neighbours.company[position][~family]
        kin = float(others.topk(min(statistics.NEAREST, len(others))).values.mean()) if len(others) else 0.0
        often = sum(counts.get(i, 0) for i in sources) / total
        purity = often / (often + labels.settings.prior_odds * (float(rates[position]) + 1e-6))
        measured.append((int(at[near.argmax()]), float(near.max()), kin, purity))
    return measured


def _candidates(rows: ConceptRows, labels: TokenLabels, tokenizer: Tokenizer, settings: VariantSettings
                ) -> list[tuple[int, str, list[int]]]:
    """Vocabulary ids that spell an accepted word otherwise, their surface, and the accepted tokens they may belong to."""
    whole = dict(zip(labels.token_ids.tolist(), (labels.whole >= 0.5).tolist(), strict=True))
    accepted = rows.token_ids.tolist()
    table: dict[str, list[int]] = {}
    for source, surface in zip(accepted, surfaces(tokenizer, accepted), strict=True):
        word = letters_of(surface).lower()
        if len(word) >= settings.min_letters and whole.get(source, True):
            for form in family(word):
                table.setdefault(form, []).append(source)
    known = set(accepted) | set(tokenizer.all_special_ids)
    found = []
    for candidate, raw in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        bare = (raw or "").lstrip("Ġ▁")
        if candidate not in known and bare.lower() in table:
            found.append((candidate, surfaces(tokenizer, [candidate])[0], table[bare.lower()]))
    return found


def _rates(ids: Sequence[int], tokenizer: Tokenizer) -> Tensor:
    """(ids,) float64: how often each token is used; a token that can stand inside words counts them all."""
    english = background(tokenizer)
    rate = english.rate[torch.tensor(ids)].clone()
    for position, surface in enumerate(surfaces(tokenizer, ids)):
        if not surface.startswith(" ") and surface.islower():
            rate[position] += english.inside(surface, starts_word=False)
    return rate


def _contribution(centred: Tensor, source: Tensor, F: Tensor) -> Tensor:
    """(k,): least squares of a variant's centred row on the features that write into its word."""
    columns = source.nonzero()[:, 0]
    G = torch.zeros_like(source)
    if len(columns):
        G[columns] = torch.linalg.lstsq(F[:, columns], centred[:, None], driver="gelsd").solution[:, 0]
    return G


def _evidence(named: tuple[int, str, int], kin: float, purity: float, G: Tensor | None, reason: str) -> TokenEvidence:
    candidate, shown, source = named
    columns = tuple(G.nonzero()[:, 0].tolist()) if G is not None else ()
    return TokenEvidence(candidate, shown, purity, 0.0, kin, 0, 0, 0.0, columns, G is not None, reason, source)


def _with(rows: ConceptRows, taken: Sequence[tuple[int, Tensor]], judged: Sequence[TokenEvidence]) -> ConceptRows:
    evidence = rows.evidence.with_tokens(tuple(judged))
    if not taken:
        return ConceptRows(rows.token_ids, rows.G, rows.F, evidence)
    ids = torch.cat([rows.token_ids, torch.tensor([candidate for candidate, _ in taken])])
    order = ids.argsort()
    return ConceptRows(ids[order], torch.cat([rows.G, torch.stack([G for _, G in taken])])[order], rows.F, evidence)
