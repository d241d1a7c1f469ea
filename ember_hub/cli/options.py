"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from ember_hub.errors import ConfigError

_VERIFICATION = (
    click.option("--battery", type=click.Choice(["none", "quick", "standard", "full"]),
                 help="Evaluations and attacks to run (see `ember-hub evaluations`); none measures nothing.  [default: quick, but "
                      "none for a patch of the embedding edit alone from the Hub]"),
    click.option("--only", multiple=True, metavar="NAME", help="Run this evaluation or attack, and no battery; may be repeated."),
    click.option("--skip", multiple=True, metavar="NAME", help="Leave it out; may be repeated."),
    click.option("--bench", metavar="TASK,...", help="Tasks of lm-evaluation-harness, for base and edited model."),
    click.option("--fail-under", "gates", multiple=True, metavar="NAME=VALUE",
                 help="Limit on a result: recovered[.ATTACK] at most; efficacy, specificity, coherence, harmonic and the share "
                      "kept of any score (near_domain, general, mmlu, ...) at least."),
    click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Where run folders are kept.  [default: runs]"),
    click.option("--device", help="auto, cpu, cuda, cuda:1, ..."),
    click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float16", "float32"]), help="Number type of the model."),
    click.option("--device-map", type=click.Choice(["auto", "balanced", "sequential"]),
                 help="Share a model that is too large for one device out over GPUs, memory and disk."),
    click.option("--max-memory", metavar="DEVICE=SIZE,...", help="Most memory by device, e.g. 0=20GB,cpu=64GB."),
    click.option("--offload", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
                 help="Folder for the parts that fit into no memory."),
    click.option("--quantization", type=click.Choice(["4bit", "8bit"]),
                 help="Hold what is neither edited nor trained in so many bits while measuring and training."),
    click.option("--seed", type=int, help="Seed of everything random.  [default: 42]"),
    click.option("--trust-remote-code", is_flag=True, help="Allow the model repository's own Python code to run."),
    click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. rmu.steps=150."),
    click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings."),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    click.option("--quiet", is_flag=True, help="Say nothing while working."),
)


concepts = click.option("--concept", required=True, multiple=True, metavar="NAME",
                        help="Concept pack: name, alias or folder (see `ember-hub concepts list`); several in one run if repeated.")


def verification(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of everything that measures."""
    for option in reversed(_VERIFICATION):
        command = option(command)
    return command


def flags(given: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as nested settings; what was left out is left to the other sources."""
    found: dict[str, Any] = {"concept": "+".join(given["concept"])}
    found |= {key: given[key] for key in ("output", "device", "dtype", "seed") if given[key] is not None}
    if given["trust_remote_code"]:
        found["trust_remote_code"] = True
    if given["gates"]:
        found["gates"] = gates(given["gates"])
    if given["base_id"]:
        found["publish"] = {"base_id": given["base_id"]}
    found |= _loading(given)
    chosen = {key: list(given[key]) for key in ("only", "skip") if given[key]}
    chosen |= {"battery": given["battery"]} if given["battery"] else {}
    chosen |= {"bench": [task.strip() for task in given["bench"].split(",") if task.strip()]} if given["bench"] else {}
    return found | ({"verify": chosen} if chosen else {})


def gates(texts: Iterable[str]) -> dict[str, float]:
    """The limits that `--fail-under` names."""
    return dict(map(_gate, texts))


def _loading(given: dict[str, Any]) -> dict[str, Any]:
    chosen = {key: given[key] for key in ("device_map", "offload", "quantization") if given[key] is not None}
    if given["max_memory"]:
        pairs = [part.partition("=") for part in given["max_memory"].split(",")]
        if not all(device.strip() and size.strip() for device, _, size in pairs):
            raise ConfigError(f"--max-memory {given['max_memory']!r} is no limit", hint="write --max-memory 0=20GB,cpu=64GB")
        chosen["max_memory"] = {device.strip(): size.strip() for device, _, size in pairs}
    return {"loading": chosen} if chosen else {}


def _gate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise ConfigError(f"--fail-under {text!r} is no limit", hint="write --fail-under recovered=0.35") from error
