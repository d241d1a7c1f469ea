"""What the stages of one erasure share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from safetensors.torch import load_file, save_file

from ember_hub.concepts.pack import ConceptPack
from ember_hub.edits import store
from ember_hub.edits.apply import applied
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.evaluation.base import Instrument
from ember_hub.evaluation.evidence import BASE, EDITED, EMBER_ONLY, RANDOM, STRANGER
from ember_hub.evaluation.examination import Examiner, Measurement, Syllabus
from ember_hub.evaluation.language import Predictions
from ember_hub.evaluation.token_tree import tried
from ember_hub.methods.base import Method
from ember_hub.progress import Progress
from ember_hub.publish.export import as_stored
from ember_hub.run import Run
from ember_hub.settings import Settings
from ember_hub.source.resolve import Base

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ember_hub.source.anatomy import Anatomy
    from ember_hub.source.load import LoadedModel
    from ember_hub.source.spread import Spread
    from ember_hub.stages.rows import Vocabulary

EMBER_EDIT = "edits/0-ember.safetensors"
BEFORE = "reports/before.json"
TUNE = "reports/tune.json"
NEUTRAL = "reports/neutral.safetensors"
RANDOM_EDIT = "edits/control-random.safetensors"


@dataclass(frozen=True)
class Workshop:
    """One erasure under way."""

    settings: Settings
    base: Base
    pack: ConceptPack
    run: Run
    methods: Mapping[str, type[Method]]
    instruments: tuple[Instrument, ...]
    progress: Progress

    kind: ClassVar[Literal["erasure", "audit"]] = "erasure"

    @cached_property
    def loaded(self) -> LoadedModel:
        """The base, loaded when a stage first needs it: a finished run never loads it."""
        from ember_hub.source.load import load

        s = self.settings
        return tried(load(self.base.folder, device=s.device, dtype=s.dtype, trust_remote_code=s.trust_remote_code,
                          progress=self.progress, spread=self.spread))

    @cached_property
    def spread(self) -> Spread:
        """How the model is laid out; the blocks that a method of this run trains stay dense and in memory."""
        from ember_hub.source.anatomy import anatomy_of_config
        from ember_hub.source.spread import Spread

        wanted = self.settings.loading
        if wanted.is_plain:
            return Spread()
        anatomy = anatomy_of_config(self.base.folder, self.settings.trust_remote_code)
        trained = {block for name, kind in self.methods.items()
                   for block in kind(**self.settings.plugins.get(name, {})).trained_blocks(anatomy.n_layers)}
        return Spread(wanted.device_map, wanted.max_memory, wanted.offload, wanted.quantization,
                      tuple(f"{anatomy.blocks}.{block}" for block in sorted(trained)))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The base's input embedding as the checkpoint has it, row by row; needs no loaded model."""
        from ember_hub.stages.rows import Vocabulary

        return Vocabulary.open(self.base, self.settings, self.progress)

    @property
    def anatomy(self) -> Anatomy:
        return self.loaded.anatomy

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.loaded.tokenizer

    def embedding_rows(self, ids: Tensor) -> Tensor:
        """The base's rows (n, d) of the input embedding."""
        return self.loaded.parameter(self.anatomy.embedding)[ids].cpu()

    @cached_property
    def reasons(self) -> dict[tuple[str, str], str | None]:
        """Why an instrument cannot be used with a pack, for those that were asked already."""
        return {}

    @cached_property
    def syllabus(self) -> Syllabus:
        return Syllabus.from_json(self.run.read_json(BEFORE)["syllabus"])

    def base_on_tune(self) -> Measurement:
        """What a search compares its candidates with."""
        return Measurement.from_json(self.run.read_json(TUNE))

    def neutral_predictions(self) -> Predictions:
        tensors = load_file(self.run.folder / NEUTRAL)
        return Predictions(tensors["token_ids"], tensors["logprobs"])

    def keep_predictions(self, value: Predictions) -> None:
        with self.run.writing(NEUTRAL) as partial:
            save_file({"token_ids": value.token_ids.contiguous(), "logprobs": value.logprobs.contiguous()}, partial)

    def examiner(self) -> Examiner:
        return Examiner(self.loaded, self.pack, self.progress)

    def keep_edit(self, name: str, edit: Edit) -> None:
        with self.run.writing(name) as partial:
            store.save(edit, partial)

    def edit(self, name: str) -> Edit:
        return store.load(self.run.folder / name)

    def ember_edit(self) -> Edit:
        """The embedding edit at its chosen strength; the empty edit without EMBER, or where no strength passed."""
        return self.edit(EMBER_EDIT) if self.settings.ember.enabled else Edit.none()

    def method_edit(self, index: int, prefix: str = "") -> str:
        """File of the edit of the index-th method; `prefix` names the control it belongs to."""
        return f"edits/{prefix}{index + 1}-{self.settings.methods[index]}.safetensors"

    def methods_edit(self, prefix: str = "") -> Edit:
        """What all methods change together."""
        edit = Edit.none()
        for index in range(len(self.settings.methods)):
            edit = edit.then(self.edit(self.method_edit(index, prefix)))
        return edit

    def states(self) -> tuple[str, ...]:
        """Every model state that is examined beside the base: the result first, then what it is compared with."""
        if not self.ember_edit().changes:
            return (EDITED,)
        if not self.settings.methods:
            return EDITED, RANDOM
        return EDITED, EMBER_ONLY, self.methods_only, RANDOM

    def attacked_states(self) -> tuple[str, ...]:
        """The states that are attacked: all but EMBER alone, the base itself, and the base with an invented concept."""
        return (*(state for state in self.states() if state != EMBER_ONLY), BASE, STRANGER)

    def tokens(self) -> tuple[int, ...]:
        """Vocabulary rows of the input embedding that the result changes."""
        change = self.edit_of(EDITED).changes.get(self.anatomy.embedding)
        return () if change is None or isinstance(change, Replaced) else tuple(change.token_ids.tolist())

    @property
    def methods_only(self) -> str:
        """Name of the control that leaves EMBER out."""
        return "-".join([*self.settings.methods, "only"])

    def edit_of(self, state: str) -> Edit:
        """The edit that makes one model state, as the checkpoint can hold it."""
        parts = {
            BASE: Edit.none,
            EDITED: lambda: self.ember_edit().then(self.methods_edit()),
            EMBER_ONLY: self.ember_edit,
            RANDOM: lambda: self.edit(RANDOM_EDIT).then(self.methods_edit("control-random-")),
            self.methods_only: lambda: self.methods_edit("control-only-"),
        }
        # What is examined is what a file can hold, bit for bit, not what float64 would make of it.
        return as_stored(self.base.folder, parts[state]())

    def remarks(self) -> list[str]:
        """What a reader must know of the result beside the numbers."""
        return []

    def audited(self) -> dict[str, Any] | None:
        """Which published model this is about; none when we made it ourselves."""
        return None

    def written(self) -> tuple[Path | None, Path | None]:
        """Folders of the edited model and of the patch, those that are there."""
        folders = (self.run.folder / "out" / form for form in ("model", "patch"))
        model, patch = (folder if folder.is_dir() else None for folder in folders)
        return model, patch

    def stages_before_method(self, index: int) -> tuple[str, ...]:
        return ("tune", *(("ember",) if self.settings.ember.enabled else ()), *(f"method-{i + 1}" for i in range(index)))

    def edit_stages(self) -> tuple[str, ...]:
        """The stages that made the edits."""
        own = self.stages_before_method(len(self.settings.methods))[1:]
        return (*own, "controls") if self.ember_edit().changes else own

    @contextmanager
    def edited(self, edit: Edit) -> Iterator[None]:
        with applied(self.loaded.model, edit):
            yield

    def say(self, stage: str, text: str) -> None:
        self.progress.say(stage, text)
