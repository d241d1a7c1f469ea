"""What a Hub Job that a webhook started is told, and whether it concerns us.

The Hub puts the payload into WEBHOOK_PAYLOAD and the webhook's secret into WEBHOOK_SECRET; the secret that we gave the Job is in
EMBER_WEBHOOK_SECRET. A payload only says which repository to look at: what is there is asked of the Hub itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pydantic import ValidationError

from ember_hub.automation.releases import Watch
from ember_hub.errors import AutomationError
from ember_hub.source.ref import is_repo_id

PAYLOAD, SECRET, OWN_SECRET = "WEBHOOK_PAYLOAD", "WEBHOOK_SECRET", "EMBER_WEBHOOK_SECRET"
LARGEST = 1 << 20
_AGAIN = "register the webhook again with `ember-hub watch --setup job`"


def has_payload(environment: Mapping[str, str]) -> bool:
    """Whether a webhook started this process; the start that registers a Job has none."""
    return bool(environment.get(PAYLOAD))


def concerned(environment: Mapping[str, str], watch: Watch) -> tuple[str | None, str]:
    """The repository to look at, or None and why there is none.

    Raises:
        AutomationError: the secret is missing or wrong, or the payload is none.
    """
    _require_secret(environment)
    from huggingface_hub import WebhookPayload

    text = environment[PAYLOAD]
    if len(text) > LARGEST:
        raise AutomationError(f"{PAYLOAD} has {len(text):,} characters, more than a payload of the Hub", hint=_AGAIN)
    try:
        payload = WebhookPayload.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise AutomationError(f"{PAYLOAD} is no payload of a Hub webhook: {where}: {first['msg'].lower()}", hint=_AGAIN) from error
    event, repo = payload.event, payload.repo
    if payload.discussion or payload.comment or event.scope.split(".")[0] != "repo":
        return None, f"{event.scope} is no release"
    if repo.type != "model":
        return None, f"{repo.type} repositories are not watched"
    if not is_repo_id(repo.name) or not watch.covers(repo.name):
        return None, f"{repo.name[:96]!r} is not watched"
    if event.action not in ("create", "update") or event.scope not in ("repo", "repo.content"):
        return None, f"{event.action} of {event.scope} is no release"
    if payload.updatedRefs and not any(ref.ref == "refs/heads/main" for ref in payload.updatedRefs):
        return None, f"{payload.updatedRefs[0].ref[:96]!r} is not the main branch"
    return repo.name, ""


def _require_secret(environment: Mapping[str, str]) -> None:
    expected, given = environment.get(OWN_SECRET, ""), environment.get(SECRET, "")
    if not expected:
        raise AutomationError(f"{OWN_SECRET} is not set: nothing can be trusted that a webhook says", hint=_AGAIN)
    # In constant time, so that nobody learns the secret letter by letter.
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise AutomationError(f"{SECRET} is not the secret of this Job", hint=_AGAIN)
