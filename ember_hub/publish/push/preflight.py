"""Whether a push can succeed, found out before any work: token, name, what lies there, what the base allows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ember_hub.errors import ConsentNeeded, PushRejected
from ember_hub.publish.push.patience import Patience
from ember_hub.publish.push.rejection import LOG_IN, hub_errors
from ember_hub.publish.push.remote import Remote, look, refuse_foreign
from ember_hub.publish.push.target import Form, Gating, PushOptions, Target, default_repo, page
from ember_hub.source.ref import is_repo_id

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def preflight(repo: str | None, base: str, concept: str, form: Form, options: PushOptions | None = None,
              patience: Patience | None = None) -> Target:
    """Find out, before any work, whether a push can succeed.

    `repo` None means the default name; `base` is a repository id, or a mere name when the base is not on the Hub.

    Raises:
        UsageError: an option that cannot be.
        PushRejected, GatedModel: no token that may write there, or the repository holds something else.
        ConsentNeeded: the result would be public and the base is not, and the options do not say yes to that.
    """
    from huggingface_hub import HfApi

    api, options, patience = HfApi(), options or PushOptions(), patience or Patience()
    options.require_sound()
    with hub_errors(repo or "the Hub"), patience.on_the_wire():
        keyless = os.environ.get("HF_OIDC_RESOURCE")
        account = {} if keyless else patience.call(api.whoami)
    user = keyless.split("/")[0] if keyless else account["name"]
    repo = repo or default_repo(user, base, concept, form)
    if "/" not in repo or not is_repo_id(repo):
        raise PushRejected(f"{repo!r} is not the id of a repository", hint=f"write it as {user}/NAME")
    if not keyless:
        _require_write(account, repo, options)
    with hub_errors(repo), patience.on_the_wire():
        remote = look(api, repo, patience)
        if keyless:
            _require_trust(keyless, repo, remote)
        elif remote.head is None:
            _require_member(account, repo)
        target = Target(repo, form, base, concept, options, remote.head)
        refuse_foreign(api, remote, target)
        gating = _require_consent(api, target, remote, patience)
        if not remote.files and not keyless and not (options.create_pr and remote.head):
            # What others own already is gated as they like.
            target = replace(target, gating=gating)
        if remote.head is not None and options.tags:
            _require_free_tags(api, target, patience)
    if options.collection:
        slug = options.collection
        with hub_errors(f"the collection {slug}"), patience.on_the_wire():
            patience.call(lambda: api.get_collection(slug))
    return target


def _require_write(account: Mapping[str, Any], repo: str, options: PushOptions) -> None:
    token = account.get("auth", {}).get("accessToken") or {}
    scopes = token.get("fineGrained", {}).get("scoped")
    granted = {permission for scope in scopes or () for permission in scope.get("permissions", ())}
    # Who may only read a repository may still propose a change to it.
    needed = {"repo.write", "discussion.write"} if options.create_pr else {"repo.write"}
    if token.get("role") == "read" or (scopes is not None and not needed & granted):
        raise PushRejected(f"the token of {account['name']} can only read", hint=LOG_IN)
    if not options.create_pr:
        _require_member(account, repo)


def _require_member(account: Mapping[str, Any], repo: str) -> None:
    namespace, user = repo.split("/")[0], account["name"]
    member = {org["name"]: org.get("roleInOrg") for org in account.get("orgs", ())}
    if namespace not in (user, *member) or member.get(namespace) == "read":
        raise PushRejected(f"{user} may not write under {namespace!r}",
                           hint=f"name a repository under {', '.join((user, *member))}, or use another token")


def _require_trust(keyless: str, repo: str, remote: Remote) -> None:
    """A token that a job gets for its identity writes to one repository, which trusts it already."""
    if repo != keyless:
        raise PushRejected(f"HF_OIDC_RESOURCE gives a token for {keyless}, and the target is {repo}",
                           hint=f"push to that one, or set HF_OIDC_RESOURCE={repo}; one job, one form, one repository")
    if remote.head is None:
        raise PushRejected(f"{repo} is not there, and a keyless token makes no repository",
                           hint="create it on the Hub, and name this workflow in its settings, Trusted Publishers")


def _require_consent(api: HfApi, target: Target, remote: Remote, patience: Patience) -> Gating | None:
    """How the base is gated, where the result will be public."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if target.options.is_private or (remote.head and remote.is_private) or "/" not in target.base:
        return None
    gating: Gating | None = None
    try:
        info = patience.call(lambda: api.model_info(target.base))
        gating, is_closed = info.gated or None, bool(info.gated or info.private)
    except GatedRepoError:
        gating, is_closed = "manual", True
    except RepositoryNotFoundError:
        # It is gone: there is nothing left that says who may have it.
        is_closed = False
    if is_closed and not target.options.yes:
        raise ConsentNeeded(f"{target.base} is {'gated' if gating else 'private'}, and {target.repo} would be public",
                            hint="read its licence; then say --yes (a new repository asks for access as the base does), "
                                 "or keep the result to yourself with --private")
    return gating


def _require_free_tags(api: HfApi, target: Target, patience: Patience) -> None:
    for ref in patience.call(lambda: api.list_repo_refs(target.repo)).tags:
        # One on the present head may yet be right: nothing is committed when everything is there.
        if ref.name in target.options.tags and ref.target_commit != target.head:
            raise PushRejected(f"{target.repo} has a tag {ref.name} on another commit, {ref.target_commit[:12]}",
                               hint=f"choose another --tag, or delete that one at {page(target.repo)}")
