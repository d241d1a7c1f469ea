"""Registers a webhook of the Hub that starts a Hub Job for each release: no server and no GitHub is needed.

A webhook copies a Job that was started once, so registering starts one; it does a first round of watching. The Job's command is
`ember-hub watch --from-webhook`, with the watch and the recipe as words.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ember_hub.automation.hub import Hub
from ember_hub.automation.jobs import Terms, require_portable, start
from ember_hub.automation.releases import Watch
from ember_hub.automation.webhook import OWN_SECRET
from ember_hub.automation.work import Recipe, assignments
from ember_hub.errors import AutomationError, SourceError
from ember_hub.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import WebhookWatchedItem

FLAG = "--from-webhook"


@dataclass(frozen=True)
class Registered:
    """The webhook, and the Job that it copies; `is_new` is false when it was there already."""

    webhook: str
    job: str | None
    is_new: bool


def register(hub: Hub, watch: Watch, recipe: Recipe, terms: Terms, namespace: str, progress: Progress) -> Registered:
    """Start the Job that is copied, and have the Hub start one like it whenever a watched repository changes.

    The webhook's secret is read from EMBER_WEBHOOK_SECRET, or made up; it is kept by the Hub alone.

    Raises:
        AutomationError: the Hub does not start Jobs for this account, or takes no webhook.
    """
    require_portable(recipe)
    items: list[dict[str, Any] | WebhookWatchedItem] = [{"type": "org", "name": org} for org in watch.orgs]
    items += [{"type": "model", "name": model} for model in watch.models]
    words = ["watch", FLAG, *watch_words(watch, recipe, namespace)]
    command = terms.command(*words)
    for known in hub.ask("the Hub", lambda api: api.list_webhooks()):
        if known.job is not None and known.job.command == command and not known.disabled:
            return Registered(known.id, None, is_new=False)
    secret = os.environ.get(OWN_SECRET) or secrets.token_urlsafe(32)
    values = terms.read_secrets(hub) | {OWN_SECRET: secret}
    job = start(hub, terms, words, {"ember-hub": "watch"})
    progress.say("job", f"{job.url} is the one that the webhook copies; it does a first round now")
    try:
        # Once only: a webhook whose answer was lost would start every Job twice.
        webhook = hub.ask("the Hub", lambda api: api.create_webhook(
            job_id=job.id, watched=items, domains=["repo"], secret=secret, secrets=values), again=False)
    except SourceError as error:
        raise AutomationError(f"the Hub did not take the webhook: {error.message}",
                              hint="look at https://huggingface.co/settings/webhooks, then type the command again") from error
    return Registered(webhook.id, job.url, is_new=True)


def watch_words(watch: Watch, recipe: Recipe, namespace: str) -> list[str]:
    """The command line of this watch on another machine."""
    words = [f"--org={org}" for org in watch.orgs] + [f"--model={model}" for model in watch.models]
    words += [f"--filter=name={watch.name}"] if watch.name else []
    words += [f"--max-parameters={watch.max_parameters}"] if watch.max_parameters else []
    words += [f"--licence={licence}" for licence in watch.licences]
    words += [f"--since={watch.since}", f"--limit={watch.limit}", f"--claim={watch.claim}", f"--push={namespace}", "--here"]
    return [*words, f"--concept={recipe.settings.concept}", "--json", *assignments(recipe.settings)]
