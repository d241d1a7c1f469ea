"""What a concept is in one vocabulary, from rows of the input embedding alone: no model is loaded, no other weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ember_hub.concepts import labels, registry
from ember_hub.concepts.labels import LabelSettings, TokenLabels
from ember_hub.concepts.pack import ConceptPack
from ember_hub.features import factorization
from ember_hub.features.coverage import Coverage, coverage
from ember_hub.features.factorization import Factorization, FactorizationSettings
from ember_hub.features.join import join
from ember_hub.features.selection import ConceptRows, SelectionSettings, choose
from ember_hub.features.variants import adopt
from ember_hub.progress import Progress
from ember_hub.settings import Settings
from ember_hub.source.anatomy import Anatomy, anatomy_of_config
from ember_hub.source.load import load_tokenizer, transformers_reports_to
from ember_hub.source.naming import tensor_name
from ember_hub.source.resolve import Base
from ember_hub.source.weights import Weights, require_plain_numbers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabulary:
    """Tokenizer and input embedding of one base; rows are read when they are asked for."""

    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    weights: Weights
    tensor: str
    """The embedding's name in the checkpoint."""

    @classmethod
    def open(cls, base: Base, settings: Settings, progress: Progress) -> Vocabulary:
        """The embedding of a folder, or of a repository whose weights stay on the Hub.

        Raises:
            UnsupportedModel: it cannot be edited, or its embedding is quantized.
            SourceError: the rows cannot be read, or there is no usable tokenizer.
        """
        # A checkpoint whose blocks are quantized still has an embedding to edit; what needs all of it refuses it elsewhere.
        with transformers_reports_to(progress):
            anatomy = anatomy_of_config(base.folder, settings.trust_remote_code, may_be_quantized=True)
            tokenizer = load_tokenizer(base.folder, settings.trust_remote_code)
        weights = base.weights(progress)
        tensor = tensor_name(weights, anatomy.embedding)
        require_plain_numbers(weights.info(tensor))
        return cls(anatomy, tokenizer, weights, tensor)

    def read_rows(self, ids: Tensor) -> Tensor:
        """Rows (n, d) of some ids (n,), in the checkpoint's number type."""
        return self.weights.read_rows(self.tensor, ids)


@dataclass(frozen=True)
class Concept:
    """One concept in one vocabulary: its tokens, the features of their rows, and the rows that are its own."""

    labels: TokenLabels
    factors: Factorization
    rows: ConceptRows


@dataclass(frozen=True)
class Found:
    """All concepts of a run, each for itself, and their rows as one edit.

    labels: of all concepts' texts together.
    """

    concepts: tuple[Concept, ...]
    labels: TokenLabels
    rows: ConceptRows
    coverage: Coverage


def look(vocabulary: Vocabulary, pack: ConceptPack, settings: Settings, progress: Progress) -> Found:
    """Label the vocabulary, factorize each concept's part of the embedding, and select what means the concept.

    Raises:
        NoConceptTokens, NoFeatureSelected: nothing in this vocabulary is the concept's own.
        CorruptCheckpoint: a row holds NaN or infinity.
    """
    found = tuple(_look(vocabulary, part, settings, progress) for part in pack.parts or (pack,))
    together = _labels(vocabulary, pack, settings) if pack.parts else found[0].labels
    rows = join([concept.rows for concept in found])
    return Found(found, together, rows, coverage(pack, rows.token_ids, together, vocabulary.tokenizer))


def _labels(vocabulary: Vocabulary, pack: ConceptPack, settings: Settings) -> TokenLabels:
    others, how = registry.on_other_topics(pack), LabelSettings(min_purity=settings.features.min_purity)
    return labels.build(pack, vocabulary.tokenizer, others, how)


def _look(vocabulary: Vocabulary, pack: ConceptPack, settings: Settings, progress: Progress) -> Concept:
    wanted, tokenizer = settings.features, vocabulary.tokenizer
    found = _labels(vocabulary, pack, settings)
    rows = vocabulary.read_rows(found.token_ids)
    factors = _factorize(rows, found, settings, progress)
    chosen = choose(factors, found, rows, tokenizer, SelectionSettings(wanted.min_share, wanted.min_score, wanted.most))
    return Concept(found, factors, adopt(chosen, vocabulary.read_rows, found, factors, tokenizer))


def _factorize(rows: Tensor, found: TokenLabels, settings: Settings, progress: Progress) -> Factorization:
    ember = settings.ember
    how = FactorizationSettings(ember.rank, ember.sparsity, tuple(range(settings.seed, settings.seed + ember.seeds)),
                                method=ember.variant)
    begun: set[int] = set()

    def on_round(seed: int, _: int, __: float) -> None:
        if seed not in begun:
            # A new seed begins where the one before has ended.
            advance(1 if begun else 0)
            begun.add(seed)

    with progress.steps("factorizing", ember.seeds) as advance:
        return factorization.fit(rows, found, how, on_round)
