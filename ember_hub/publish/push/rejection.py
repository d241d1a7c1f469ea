"""What goes wrong with the Hub, in our words; nothing of a token is ever in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from ember_hub.errors import GatedModel, PushRejected
from ember_hub.publish.push.target import page

LOG_IN = "run `hf auth login`, or set HF_TOKEN, with a token that may write: https://huggingface.co/settings/tokens"
AGAIN = "push again in a few minutes, what was uploaded is kept"
_CHANGED = ("{repo} changed while this run was working", "look at its history, then push again")
_REFUSALS: Mapping[int, tuple[str, str]] = MappingProxyType({
    401: ("the Hub does not accept the token", LOG_IN),
    402: ("the account has no room for {repo}", "free storage, or push to another account"),
    403: ("the token may not write to {repo}", LOG_IN),
    404: ("{repo} is not there, or the token may not see it", "check the name and the token's permissions"),
    409: _CHANGED,
    412: _CHANGED,
    413: ("the Hub does not take that much at once for {repo}", "push the patch alone with --as patch, or ask the Hub for room"),
    429: ("the Hub asks to slow down", AGAIN),
})


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Inside, what the client raises becomes a PushRejected or GatedModel."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise GatedModel(f"{repo} is gated for this token", hint=f"ask for access at {page(repo)}") from error
    except errors.LocalTokenNotFoundError as error:
        raise PushRejected("there is no token for the Hub", hint=LOG_IN) from error
    except errors.OIDCError as error:
        raise PushRejected("HF_OIDC_RESOURCE is set, and this job has no identity to show to the Hub",
                           hint="give the job `permissions: id-token: write`, or unset it and set HF_TOKEN") from error
    except (httpx2.HTTPError, OSError) as error:
        raise _rejection(repo, error) from error
    except (RuntimeError, ValueError) as error:
        # The client wraps a refused upload in the one and a refused card in the other.
        if isinstance(error.__cause__, PushRejected):
            raise error.__cause__ from error
        if not isinstance(error.__cause__, httpx2.HTTPError | OSError):
            raise
        raise _rejection(repo, error.__cause__) from error


def _rejection(repo: str, error: Exception) -> PushRejected:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return PushRejected("the Hub is switched off", hint="unset HF_HUB_OFFLINE and push again")
    if not isinstance(error, HfHubHTTPError):
        return PushRejected(f"{repo} cannot be reached: {error}", hint=f"check the connection; {AGAIN}")
    if error.response.request.url.path == "/oauth/token":
        return PushRejected("the Hub gives this job no token: it trusts no such publisher",
                            hint="name the repository in HF_OIDC_RESOURCE, and this workflow in its settings, Trusted Publishers")
    status = error.response.status_code
    what, hint = _REFUSALS.get(status, (f"the Hub answered {status}: {error.server_message}", AGAIN))
    return PushRejected(what.replace("{repo}", repo), hint=hint)
