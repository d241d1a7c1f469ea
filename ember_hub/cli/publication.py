"""Options of everything that pushes, and the question that a public push may have to ask."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ember_hub.errors import ConsentNeeded

T = TypeVar("T")
_PUBLICATION = (
    click.option("--private", is_flag=True, help="Create the target repository as private."),
    click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing to the main branch."),
    click.option("--tag", "tags", multiple=True, metavar="NAME", help="Git tag to set on the commit; may be repeated."),
    click.option("--collection", metavar="SLUG", help="Add the repository to this collection (owner/name-id)."),
    click.option("--yes", is_flag=True, help="Push to a public repository although the base is gated or private."),
    click.option("--push-anyway", is_flag=True, help="Push although a gate failed; the card then says so first."),
)


def publication(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of everything that pushes."""
    for option in reversed(_PUBLICATION):
        command = option(command)
    return command


def publishing(given: dict[str, Any]) -> dict[str, Any]:
    """What was given of these options, as settings; what was left out is left to the other sources."""
    found: dict[str, Any] = {key: True for key in ("private", "create_pr", "yes", "push_anyway") if given[key]}
    found |= {"tags": list(given["tags"])} if given["tags"] else {}
    return found | ({"collection": given["collection"]} if given["collection"] else {})


def with_consent(work: Callable[[bool], T], yes: bool) -> T:
    """Do the work; where it needs a yes that nobody gave, ask who sits at the terminal, and begin again.

    Raises:
        ConsentNeeded: nobody sits there, or the answer is no.
    """
    try:
        return work(yes)
    except ConsentNeeded as need:
        if not (sys.stdin.isatty() and click.confirm(f"{need.message}. Push all the same?", err=True)):
            raise
    return work(True)
