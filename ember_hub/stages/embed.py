"""Which vocabulary rows are the concept's, what its features write into them, and how far they move."""

from __future__ import annotations

from typing import Any

from ember_hub.concepts import labels as token_labels
from ember_hub.concepts import registry
from ember_hub.concepts.labels import TokenLabels
from ember_hub.edits.controls import moved_share
from ember_hub.edits.edit import Edit, LowRankRows
from ember_hub.features import factorization
from ember_hub.features.coverage import coverage
from ember_hub.features.factorization import Factorization, FactorizationSettings
from ember_hub.features.selection import ConceptRows, choose
from ember_hub.features.variants import adopt
from ember_hub.publish.export import as_stored, tensor_name
from ember_hub.source.checkpoint import Checkpoint
from ember_hub.source.load import load_tokenizer
from ember_hub.stages.baselines import search
from ember_hub.stages.workshop import EMBER_EDIT, Workshop

LABELS = "concept/labels.safetensors"
FACTORS = "features/factorization.safetensors"
ROWS = "features/rows.safetensors"
SELECTION = "features/selection.json"
SELECTED = "reports/tuning-ember.json"


def find_rows(shop: Workshop) -> None:
    """Label the vocabulary, factorize the concept's part of the embedding, and select what means the concept."""
    if not shop.settings.ember.enabled:
        return
    shop.run.stage("features", ("before",), (LABELS, FACTORS, ROWS, SELECTION), lambda: _find_rows(shop))
    about = shop.run.read_json(SELECTION)
    shop.say("features", f"{about['features']} features · {about['rows']} rows · {about['verdict']} · "
                         f"{shop.run.folder / SELECTION}")
