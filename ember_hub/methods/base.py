"""What an unlearning method is: settings in, an Edit out. It owns no model, no files and no lifecycle.

A third party adds one with a class and an entry point in the group `ember_hub.methods`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from ember_hub.concepts.pack import ConceptPack
from ember_hub.edits.edit import Edit
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from ember_hub.source.load import LoadedModel

Space = Mapping[str, tuple[float, float]]
"""For every searched setting, its bounds; searched on a logarithmic scale, beginning at the setting's default."""


class Method(BaseModel, ABC):
    """A baseline unlearning method; its fields are its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]

    @classmethod
    @abstractmethod
    def search_space(cls) -> Space:
        """The settings worth searching on the tune split."""

    def trained_blocks(self, n_layers: int) -> tuple[int, ...]:
        """Blocks (0-based) whose parameters `fit` changes, of a model with so many: those are held dense and in memory.

        All of them, unless a method says otherwise.
        """
        return tuple(range(n_layers))

    def trained_tokens(self, n_layers: int) -> float:
        """About how many tokens one `fit` trains the whole of such a model on; for an estimate before anything is loaded.

        A method that trains some of the blocks counts their share. None, unless a method says otherwise.
        """
        return 0.0

    def prepare(self, loaded: LoadedModel, pack: ConceptPack, seed: int, progress: Progress) -> Any:
        """Work shared by every point of the search; handed back to `fit`."""
        return None

    @abstractmethod
    def fit(self, loaded: LoadedModel, prepared: Any, seed: int, progress: Progress) -> Edit:
        """The edit that these settings lead to. The model is as it was afterwards; the same seed gives the same edit."""
