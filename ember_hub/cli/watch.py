"""`ember-hub watch`: releases of watched bases, one line for each, and what starts the watching."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ember_hub.cli.live import Live
from ember_hub.cli.options import gates

if TYPE_CHECKING:
    from ember_hub.automation.configuration import Configuration
    from ember_hub.automation.hub import Hub
    from ember_hub.automation.releases import Decision
    from ember_hub.automation.watching import Watcher
    from ember_hub.automation.work import Recipe, Worker

ERROR, GATE_FAILED = 1, 3
_WATCHED = (
    click.option("--org", "orgs", multiple=True, metavar="NAME", help="Watch the models of an organization or user."),
    click.option("--model", "models", multiple=True, metavar="ORG/NAME", help="Watch the commits of one model."),
    click.option("--filter", "filters", metavar="name=REGEX", help="Only repositories in whose id this is found."),
    click.option("--max-parameters", metavar="NUMBER", help="Only models of at most so many parameters, e.g. 10B."),
    click.option("--licence", "licences", multiple=True, metavar="ID", help="Only this licence, e.g. apache-2.0; may be repeated."),
    click.option("--since", metavar="TIME", help="How far back models of an organization count as new.  [default: 30d]"),
    click.option("--limit", type=int, help="How many newest models of an organization are looked at.  [default: 50]"),
    click.option("--claim", metavar="TIME", help="How long a claim holds; longer than the longest run.  [default: 24h]"),
)
_RECIPE = (
    click.option("--concept", help="Concept pack: name, alias or folder (see `ember-hub concepts list`)."),
    click.option("--method", "methods", multiple=True, metavar="NAME", help="As for `erase`; `none` for the embedding edit alone."),
    click.option("--as", "form", type=click.Choice(["full", "patch", "both"]), help="What to write.  [default: both]"),
    click.option("--battery", help="As for `erase`."),
    click.option("--fail-under", "gates", multiple=True, metavar="NAME=VALUE", help="As for `erase`."),
    click.option("--private", is_flag=True, help="Create target repositories as private."),
    click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Where run folders are kept.  [default: runs]"),
    click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting of `erase`."),
    click.option("--config", type=click.Path(path_type=Path), help="TOML file: settings of `erase`, and a table [watch]."),
    click.option("--push", "namespace", is_flag=False, flag_value="", metavar="[NAMESPACE]",
                 help="Push results to this user or organization (default: the token's user)."),
)
_WHERE = (
    click.option("--here", "where", flag_value="here", help="Work on this machine."),
    click.option("--jobs", "where", flag_value="jobs", help="Work on a Hub Job for each release, and follow it."),
    click.option("--flavor", help="Machine of a Hub Job.  [default: a10g-small]"),
    click.option("--timeout", metavar="TIME", help="Longest time of a Hub Job.  [default: 6h]"),
    click.option("--secret", "secrets", multiple=True, metavar="NAME", help="Environment variable that a Hub Job gets as secret."),
    click.option("--job-namespace", metavar="NAME", help="Who pays for Hub Jobs (default: the token's user)."),
    click.option("--package", metavar="REQUIREMENT", help="What a Hub Job installs.  [default: ember-hub]"),
)
_WHEN = (
    click.option("--once", is_flag=True, help="One round (this is what happens when nothing else is said)."),
    click.option("--every", metavar="TIME", help="A round every so often, e.g. 6h, until it is interrupted."),
    click.option("--from-webhook", is_flag=True, help="Look at what WEBHOOK_PAYLOAD speaks of; a first round without it."),
    click.option("--setup", type=click.Choice(["job", "workflow"]),
                 help="Register a webhook that starts a Hub Job for each release, or write a scheduled GitHub workflow."),
    click.option("--repo-folder", type=click.Path(path_type=Path), default=".", help="Repository that the workflow goes into."),
    click.option("--uses", metavar="OWNER/REPO@REF", help="Where the workflow finds ember-hub on GitHub."),
    click.option("--yes", is_flag=True, help="Overwrite files that differ."),
    click.option("--dry-run", is_flag=True, help="Say what would be done; claim, start and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
    click.option("--quiet", is_flag=True, help="Say nothing while working."),
)


def _with(*groups: tuple[Callable[..., Any], ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command
    return add


@click.command()
@_with(_WATCHED, _RECIPE, _WHERE, _WHEN)
@click.pass_context
def watch(context: click.Context, **given: Any) -> None:
    """Erase again whenever a watched base has a new release: a new commit, or a new model of an organization.

    What was done is read from the target repositories, where a claim also keeps two watchers from doing it twice; this machine
    remembers nothing. Without a GPU, methods that train run on Hub Jobs (--jobs).

    A webhook of the Hub can start a Hub Job (--setup job); it cannot call GitHub, so a workflow asks on a schedule (--setup
    workflow).

    \b
    ember-hub watch --org HuggingFaceTB --max-parameters 3B --concept covid --method none --as patch --push --every 6h
    """
    from ember_hub.automation.hub import Hub, SystemClock
    from ember_hub.automation.work import Recipe
    from ember_hub.settings import resolve

    _require_one_way(given)
    found = _configured(given)
    recipe = Recipe.of(resolve(_recipe_flags(given), assignments=given["assignments"], config=given["config"]))
    if given["setup"] == "workflow":
        return _write_workflow(given, found, recipe)
    if not (given["dry_run"] or given["namespace"] is not None or found.watch.namespace):
        raise click.UsageError("a result that is not pushed is not remembered: add --push, or --dry-run")
    hub, progress = Hub(SystemClock()), Live(stages=not given["quiet"])
    if given["setup"] == "job" and not given["dry_run"]:
        return _register(given, hub, found, recipe, progress)
    context.exit(_run(given, hub, found, recipe, progress))


def _run(given: dict[str, Any], hub: Hub, found: Configuration, recipe: Recipe, progress: Live) -> int:
    """Print each decision as it falls; the exit code."""
    from ember_hub.automation.watching import Watcher

    worker = None if given["dry_run"] else _worker(hub, found, recipe, progress)
    code = 0
    for decision in _decisions(given, Watcher(found.watch, recipe, hub, worker, progress), found):
        click.echo(json.dumps(decision.to_json(), ensure_ascii=False) if given["as_json"] else _line(decision))
        if decision.decision == "failed" and not decision.gate_failed:
            code = ERROR
        elif decision.gate_failed and not code:
            code = GATE_FAILED
    return code


def _decisions(given: dict[str, Any], watcher: Watcher, found: Configuration) -> Iterable[Decision]:
    from ember_hub.automation.releases import seconds
    from ember_hub.automation.webhook import concerned, has_payload

    if given["every"]:
        return watcher.keep_polling(seconds(given["every"]))
    if given["from_webhook"] and has_payload(os.environ):
        repo, why = concerned(os.environ, found.watch)
        if repo is None:
            click.echo(f"webhook    nothing to do: {why}", err=True)
        return _settled(watcher, repo)
    return watcher.poll()


def _require_one_way(given: dict[str, Any]) -> None:
    """Raises: UsageError, if what is asked for cannot be meant together."""
    from ember_hub.automation.releases import seconds

    if sum(map(bool, (given["once"], given["every"], given["from_webhook"], given["setup"]))) > 1:
        raise click.UsageError("--once, --every, --from-webhook and --setup are four ways to begin: give one of them")
    if given["every"]:
        seconds(given["every"])


def _settled(watcher: Watcher, repo: str | None) -> Iterator[Decision]:
    if repo is not None:
        yield watcher.look_at(repo)


def _worker(hub: Hub, found: Configuration, recipe: Recipe, progress: Live) -> Worker:
    from ember_hub.automation.jobs import Jobs
    from ember_hub.automation.work import Here

    if found.where == "jobs":
        return Jobs(recipe, found.terms, hub, progress)
    if found.where == "auto" and recipe.loads_a_model and not _has_gpu():
        raise click.UsageError("this recipe loads a model, and there is no GPU here: add --jobs (Hub Jobs), or --here all the same")
    return Here(recipe, progress)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _register(given: dict[str, Any], hub: Hub, found: Configuration, recipe: Recipe, progress: Live) -> None:
    from ember_hub.automation.registration import register

    registered = register(hub, found.watch, recipe, found.terms, found.watch.namespace or hub.user(), progress)
    if given["as_json"]:
        click.echo(json.dumps({"webhook": registered.webhook, "job": registered.job, "new": registered.is_new}))
    elif registered.is_new:
        click.echo(f"webhook {registered.webhook} starts a Hub Job for each release")
    else:
        click.echo(f"webhook {registered.webhook} does this already")


def _write_workflow(given: dict[str, Any], found: Configuration, recipe: Recipe) -> None:
    from ember_hub.automation.workflow import workflow_files, write

    if not given["uses"]:
        raise click.UsageError("--setup workflow has to know where ember-hub is on GitHub: add --uses OWNER/ember-hub@COMMIT")
    contents = workflow_files(found, recipe, given["uses"])
    if given["dry_run"]:
        for path, text in contents.items():
            click.echo(f"# {path}\n{text}")
        return
    for written in write(given["repo_folder"], contents, overwrite=given["yes"]):
        click.echo(str(written))
    click.echo("Note: a webhook of the Hub cannot call GitHub; the workflow asks the Hub on a schedule. It needs the repository "
               "secret HF_TOKEN with a token that may write.", err=True)


def _configured(given: dict[str, Any]) -> Configuration:
    """What is watched and where the work is done, from the file and the command line."""
    from ember_hub.automation.configuration import configure
    from ember_hub.errors import ConfigError

    watched = {key: given[key] for key in ("orgs", "models", "max_parameters", "licences", "since", "limit", "claim") if given[key]}
    if given["filters"]:
        kind, equals, pattern = given["filters"].partition("=")
        if kind != "name" or not equals:
            raise ConfigError(f"--filter {given['filters']!r} is no filter", hint="write --filter name=REGEX")
        watched["name"] = pattern
    watched |= {"namespace": given["namespace"]} if given["namespace"] else {}
    job = {key: given[key] for key in ("flavor", "timeout", "secrets", "package") if given[key]}
    job |= {"namespace": given["job_namespace"]} if given["job_namespace"] else {}
    return configure(given["config"], watched, job, given["where"])


def _recipe_flags(given: dict[str, Any]) -> dict[str, Any]:
    """What the command line says about the erasure, as nested settings."""
    # Which model it is, the release will say.
    found: dict[str, Any] = {"model": ""} | {key: given[key] for key in ("concept", "output") if given[key] is not None}
    if given["methods"]:
        found["methods"] = [name for name in given["methods"] if name != "none"]
    if given["gates"]:
        found["gates"] = gates(given["gates"])
    if given["battery"]:
        found["verify"] = {"battery": given["battery"]}
    publish = ({"form": given["form"]} if given["form"] else {}) | ({"private": True} if given["private"] else {})
    return found | ({"publish": publish} if publish else {})


def _line(decision: Decision) -> str:
    where = f"{decision.repo}@{decision.commit[:12]}" if decision.commit else decision.repo
    target = f" → {decision.target}" if decision.target else ""
    return f"{decision.decision:<8} {where}{target}{f' · {decision.reason}' if decision.reason else ''}"
