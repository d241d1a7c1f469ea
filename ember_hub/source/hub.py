"""What goes wrong with the Hub, said as our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ember_hub.errors import DiskError, GatedModel, ModelNotFound, SourceError
from ember_hub.source.ref import ModelRef

_LOG_IN = "accept the licence at {page}, then run `hf auth login` with a token of the same account"


@contextmanager
def hub_errors(ref: ModelRef) -> Iterator[None]:
    """Inside, what goes wrong with the Hub is raised as our errors."""
    import httpx2
    from huggingface_hub import errors

    page = _page(ref)
    try:
        yield
    except errors.GatedRepoError as error:
        raise GatedModel(f"{ref.location} is gated", hint=_LOG_IN.format(page=page)) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{ref.location} has no revision {ref.revision!r}", hint=f"see {page}/commits") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(f"there is no repository {ref.location} on the Hub, or it is private",
                            hint="check the spelling; for a private one run `hf auth login`") from error
    except errors.HfHubHTTPError as error:
        raise _http_error(ref, error) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, httpx2.HTTPError,
            httpx2.InvalidURL, errors.RevisionResolutionError, errors.XetDownloadError, TimeoutError) as error:
        raise _unreachable(ref, error) from error
    except OSError as error:
        raise DiskError(f"{ref.location} cannot be kept: {error}",
                        hint="make room and check the permissions of the Hub's cache (HF_HOME)") from error


def _http_error(ref: ModelRef, error: Any) -> SourceError:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return SourceError("the Hub does not accept the token", hint="run `hf auth login`, or unset HF_TOKEN")
    if status == 403:
        return GatedModel(f"the Hub refuses access to {ref.location}",
                          hint=_LOG_IN.format(page=_page(ref)))
    return _unreachable(ref, error)


def _page(ref: ModelRef) -> str:
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{ref.location}"


def _unreachable(ref: ModelRef, error: Exception) -> SourceError:
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        return SourceError(f"{ref.location} is not in the cache, and the Hub is switched off",
                           hint="unset HF_HUB_OFFLINE, or download the model before going offline")
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return SourceError(f"{ref.location} cannot be fetched: {reason}",
                       hint=f"check the connection to {ENDPOINT}; what was downloaded is kept for the next try")
