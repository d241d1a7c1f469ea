"""Inputs of the action as words of the command line: a list, never a line for a shell."""

from __future__ import annotations

import shutil
from pathlib import Path

from ember_hub.automation.github.runner import Step
from ember_hub.errors import ConfigError

CONFIG = ".github/ember-watch.toml"
AUTO = "auto"


def for_erase(step: Step, output: Path) -> list[str]:
    """`ember-hub erase ...`.

    Raises:
        ConfigError: model or concept is empty, or an input is neither true nor false.
    """
    words = ["erase", "--json", f"--output={output}", *_recipe(step)]
    push = step.asked("push", "false")
    if push != "false":
        words += ["--push"] if push == "true" else [f"--push={push}"]
    words += [f"--{name}={step.asked(name)}" for name in ("device", "base-id") if step.asked(name)]
    words += [f"--{name}" for name in ("create-pr", "yes") if step.is_set(name)]
    return [*words, "--", _required(step, "model")]


def for_job(step: Step) -> list[str]:
    """`ember-hub watch ... --jobs`: the same erasure on a machine of the Hub, followed to its end.

    Raises:
        ConfigError: there is no place on the Hub for the result, or an input has no meaning there.
    """
    push = step.asked("push", "false")
    if push == "false" or "/" in push:
        raise ConfigError(f"a Hub Job with push: {push}",
                          hint="its result goes to the Hub under its default name: write push: true, or a user or organization")
    for name in ("create-pr", "base-id", "device"):
        if step.asked(name, "false") != "false":
            raise ConfigError(f"the input {name} means nothing to a Hub Job", hint="leave it out, or write where: here")
    words = ["watch", "--once", "--json", "--jobs", f"--model={_required(step, 'model')}", *_recipe(step)]
    words += ["--push"] if push == "true" else [f"--push={push}"]
    return words + [f"--{option}={step.asked(f'job-{option}')}" for option in ("flavor", "timeout") if step.asked(f"job-{option}")]


def for_watch(step: Step) -> list[str] | None:
    """`ember-hub watch --once ...`; None when no file says what is watched, and none was named."""
    config = step.asked("config", CONFIG)
    if not step.asked("config") and not Path(config).is_file():
        return None
    words = ["watch", "--once", "--json", f"--config={config}", "--push"]
    words += [f"--output={step.asked('output') or step.scratch / 'ember-runs'}"]
    return words + [f"--{name}" for name in ("jobs", "dry-run") if step.is_set(name)]


def needs_job(step: Step) -> bool:
    """Whether the erasure belongs on a Hub Job: `where: jobs`, or `where: auto` if a model is loaded and there is no GPU here.

    Raises:
        ConfigError: the input is none of the three.
    """
    where = step.asked("where", AUTO)
    if where not in (AUTO, "here", "jobs"):
        raise ConfigError(f"the input where is {where!r}", hint="write auto, here or jobs")
    if where != AUTO:
        return where == "jobs"
    has_gpu = shutil.which("nvidia-smi", path=step.environment.get("PATH")) is not None
    return loads_a_model(step) and step.asked("push", "false") != "false" and not has_gpu


def loads_a_model(step: Step) -> bool:
    """Whether weights are needed: everything but the embedding edit alone, as a patch of which nothing is measured."""
    is_measured = step.asked("battery", AUTO) not in (AUTO, "none") or any(
        line.startswith(("verify.only", "verify.bench")) for line in step.lines("settings"))
    return bool(set(step.words("methods")) - {"none"}) or step.asked("as", "patch") != "patch" or is_measured


def _recipe(step: Step) -> list[str]:
    words = [f"--concept={_required(step, 'concept')}", f"--as={step.asked('as', 'patch')}"]
    words += [f"--method={name}" for name in step.words("methods") or ["none"]]
    words += [f"--battery={step.asked('battery')}"] if step.asked("battery", AUTO) != AUTO else []
    words += [f"--fail-under={gate}" for gate in step.words("gates")]
    words += ["--private"] if step.is_set("private") else []
    return words + [f"--set={line}" for line in step.lines("settings")]


def _required(step: Step, name: str) -> str:
    value = step.asked(name)
    if not value:
        raise ConfigError(f"the input {name} is empty", hint=f"say it under `with:` as {name}: ...")
    return value
