"""Every setting of an erasure, defined once: flag, TOML key, environment variable, help and card text come from here.

Precedence: built-in default < `--config` TOML < environment (`EMBER_HUB_EMBER__SEEDS=3`) < flags and `--set`.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ember_hub.errors import ConfigError

PREFIX = "EMBER_HUB_"
NOT_SETTINGS = frozenset({"EMBER_HUB_CACHE"})
"""Environment variables with our prefix that are no settings of a run."""
NOT_OF_A_RUN = frozenset({"watch"})
"""Tables of a TOML file that others read: what is watched stands beside the recipe."""


Limit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""Results are fractions: a limit beyond them would never be met, or always."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EmberSettings(Section):
    """The embedding edit."""

    enabled: bool = Field(True, description="Make the embedding edit before the other methods.")
    variant: Literal["paper", "plus"] = Field("paper", description="SMF as published, or with the improved start and refit.")
    rank: int | None = Field(None, ge=1, description="Features of the factorization (default: 200, or 100 below d_model 1024).")
    sparsity: float = Field(0.01, gt=0, le=0.5, description="Share of the vocabulary rows that each feature keeps.")
    seeds: int = Field(5, ge=1, description="Factorizations from different seeds that must agree.")
    clip: float = Field(5.0, gt=0, description="No row moves by more than this many times its own norm.")
    strengths: tuple[float, ...] = Field((1.0, 2.0, 5.0, 10.0), description="Strengths tried on the tune split.")
    untuned_strength: float = Field(5.0, gt=0, description="Strength where nothing is measured, and so none can be chosen.")


class FeatureSettings(Section):
    """Which features and tokens are taken for the concept's own."""

    min_purity: float = Field(0.5, gt=0, lt=1, description="Least purity of a token whose counts alone make it the concept's.")
    min_share: float = Field(0.22, gt=0, le=1, description="Least share of a feature's activation on tokens held to be its.")
    min_score: float = Field(11.5, description="Least score of an edited token (nats): counts, neighbours and spread.")
    most: int = Field(20, ge=1, description="How many tokens are edited at most, other spellings of them not counted.")


class SearchSettings(Section):
    """The search on the tune split."""

    trials: int = Field(6, ge=1, description="Settings of each method that are tried.")
    specificity: float = Field(0.85, ge=0, le=1, description="Gate: least specificity on the tune split.")
    coherence: float = Field(0.8, ge=0, le=1, description="Gate: least coherence on the tune split.")


class VerifySettings(Section):
    """What is measured at the end."""

    battery: Literal["none", "quick", "standard", "full"] | None = Field(
        None, description="Which evaluations and attacks run (default: quick; none for a patch of the embedding edit alone from "
                          "the Hub, which then downloads no weights).")
    only: tuple[str, ...] = Field((), description="Evaluations and attacks to run instead of a battery, by name.")
    skip: tuple[str, ...] = Field((), description="Evaluations and attacks to leave out, by name.")
    bench: tuple[str, ...] = Field((), description="Tasks of lm-evaluation-harness to run on base and edited model.")
    bench_include: Path | None = Field(None, description="Folder with more of these tasks, as YAML.")
    bench_limit: int | None = Field(None, ge=1, description="Most questions of each of these tasks (default: all).")


class LoadingSettings(Section):
    """Models larger than one device."""

    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None, description="Share the model out over GPUs, memory and disk, in this way.")
    max_memory: dict[str, str] = Field(default_factory=dict, description="Most memory by device: 0=20GB,cpu=64GB.")
    offload: Path | None = Field(None, description="Folder for the parts that fit into no memory (slow).")
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="Hold what is neither edited nor trained in so many bits while measuring and training.")

    @property
    def is_plain(self) -> bool:
        """Whether all weights are in the memory of one device, as the checkpoint has them."""
        return self.device_map is None and self.quantization is None


class PublishSettings(Section):
    """What is written and where it goes."""

    form: Literal["full", "patch", "both"] = Field("both", description="Write the full model, the patch, or both.")
    push: bool = Field(False, description="Push the result to the Hub.")
    repo: str | None = Field(None, description="Target repository (default: {user}/{base}-ember-{concept}).")
    private: bool = Field(False, description="Create the target repository as private.")
    create_pr: bool = Field(False, description="Open a pull request instead of committing to the main branch.")
    tags: tuple[str, ...] = Field((), description="Git tags to set on the commit when it is there.")
    collection: str | None = Field(None, description="Slug of a collection to add the repository to (owner/name-id).")
    yes: bool = Field(False, description="Push to a public repository although the base is gated or private.")
    base_id: str | None = Field(None, description="Hub id of the base when it is given as a folder or GGUF file.")
    push_anyway: bool = Field(False, description="Push although a gate failed; the card then says so first.")


class Settings(Section):
    """One erasure."""

    model: str = Field(description="Hub repository (org/name[@revision]), folder, or .gguf file.")
    concept: str = Field(description="Name or alias of a concept pack, or its folder; several with + between them.")
    methods: tuple[str, ...] = Field(("rmu",), description="Baseline methods, in order, after the embedding edit.")
    output: Path = Field(Path("runs"), description="Where run folders are kept.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: str = Field("auto", description="auto, bfloat16, float16 or float32.")
    seed: int = Field(42, ge=0, description="Seed of everything random.")
    trust_remote_code: bool = Field(False, description="Allow the model repository's own Python code to run.")
    gates: dict[str, Limit] = Field(default_factory=dict, description="Limits, as fractions, whose violation fails the command.")
    ember: EmberSettings = EmberSettings()
    features: FeatureSettings = FeatureSettings()
    search: SearchSettings = SearchSettings()
    verify: VerifySettings = VerifySettings()
    loading: LoadingSettings = LoadingSettings()
    publish: PublishSettings = PublishSettings()
    plugins: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Settings of methods, evaluations and attacks, by name; what is fixed is not searched.")

    def with_consent(self, yes: bool) -> Settings:
        """The same, with or without the yes to a public result of a base that is not public."""
        return self.model_copy(update={"publish": self.publish.model_copy(update={"yes": yes})})

    @property
    def is_measured(self) -> bool:
        """Whether a model is loaded to choose the strength and to verify the result."""
        return self.verify.battery != "none" or bool(self.verify.only or self.verify.bench)

    @property
    def needs_weights(self) -> bool:
        """Whether a whole checkpoint has to be at hand; if not, rows of its embedding are enough."""
        return self.is_measured or self.publish.form != "patch"

    def identity(self) -> dict[str, Any]:
        """What decides the edited model: not where it is written to, whether it is pushed, or how it is verified.

        Whether it is verified at all does decide: without, its strength is not searched.
        """
        besides = {"output", "publish", "gates", "model", "concept", "device", "verify", "plugins", "loading"}
        own = self.model_dump(mode="json", exclude=besides)
        fixed = {name: self.plugins[name] for name in self.methods if name in self.plugins}
        # Where the weights lie does not change what comes out; in how many bits they are held does.
        bits = {"quantization": self.loading.quantization} if self.loading.quantization else {}
        return own | bits | {"method_settings": fixed, "form": self.publish.form, "base_id": self.publish.base_id,
                      "is_measured": self.is_measured}


def resolve(flags: Mapping[str, Any], *, assignments: Iterable[str] = (), config: Path | None = None,
            environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from all their sources.

    Args:
        flags: nested mapping of what the command line gave explicitly.
        assignments: `section.key=value` texts of `--set`; values are read as JSON where they can be.

    Raises:
        ConfigError: unknown key (nearest names offered) or a value out of range.
    """
    merged: dict[str, Any] = {}
    if config:
        for key, value in _from_toml(config).items():
            if key in NOT_OF_A_RUN:
                continue
            _put(merged, [key] if key in Settings.model_fields else ["plugins", _plugin(key)], value, str(config))
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            _put(merged, name.removeprefix(PREFIX).lower().split("__"), _value(value), name)
    _merge(merged, flags)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r} is no assignment", hint="write --set section.key=value")
        _put(merged, key.strip().split("."), _value(value), f"--set {key.strip()}")
    return _validated(merged)


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path given to --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", hint="mend the TOML at that place") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def _put(merged: dict[str, Any], keys: list[str], value: Any, origin: str) -> None:
    """Set a nested key; a key whose first part is no setting belongs to the method, evaluation or attack of that name."""
    if len(keys) == 2 and keys[0] not in Settings.model_fields:
        keys = ["plugins", _plugin(keys[0]), keys[1]]
    place = merged
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{origin}: {key!r} has no parts", hint="see `ember-hub erase --help`")
    place[keys[-1]] = value


def _plugin(name: str) -> str:
    """A section that is not ours belongs to the plug-in of that name, unless it looks like one of ours misspelt.

    Plug-ins are written with hyphens; environment variables cannot be.
    """
    nearest = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.75)
    if nearest:
        raise ConfigError(f"no section {name!r}", hint=f"did you mean {nearest[0]}?")
    return name.replace("_", "-")


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _validated(merged: Mapping[str, Any]) -> Settings:
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise _config_error(error) from error


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        section = first["loc"][:-1]
        known = _fields(Settings, section)
        nearest = difflib.get_close_matches(str(first["loc"][-1]), known, n=2, cutoff=0.4) or sorted(known)
        prefix = ".".join(map(str, section)) + "." if section else ""
        return ConfigError(f"no setting {key!r}", hint=f"did you mean: {', '.join(prefix + n for n in nearest)}?")
    if first["type"] == "missing":
        return ConfigError(f"setting {key!r} is missing", hint=f"give it as a flag, in --config, or as {PREFIX}{key.upper()}")
    if first["type"] == "tuple_type":
        return ConfigError(f"{key} = {first.get('input')!r}: not a list", hint=f'write one in brackets: {key}=["...", "..."]')
    return ConfigError(f"{key} = {first.get('input')!r}: {first['msg'].lower()}", hint="see `ember-hub erase --help`")


def _fields(model: type[BaseModel], section: Iterable[Any]) -> list[str]:
    for name in section:
        field = model.model_fields.get(str(name))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)
