"""A plan as a terminal shows it: the verdict, the tokens, the ways to erase, and what to know before."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click

WIDTH = 96
_TOKENS, _TEXT = 40, 16


def print_plan(plan: Mapping[str, Any]) -> None:
    """Everything on standard output, within a hundred columns."""
    for line in lines(plan):
        click.echo(line)


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """The plan, line by line."""
    model, reach = plan["model"], plan["coverage"]
    yield f"{plan['concept']['title']} in {model['repo_id'] or model['name']}"
    yield from _wrapped(plan["verdict"])
    yield from _wrapped(
        f"{reach['exclusive']} tokens of the vocabulary are the concept's own; {reach['rows']} rows would change"
        f"{_share('; keywords reached: {}', reach['keywords'])}{_share('; words of its questions: {}', reach['question_words'])}")
    yield from _tokens(plan)
    yield from _ways(plan)
    for title, texts in (("What stays as it is", plan["limits"]), ("Before publishing", plan["notes"])):
        yield f"\n{title}"
        for text in texts:
            yield from _wrapped(text, "- ")


def _tokens(plan: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n{'token':<{_TEXT}} {'id':>7} {'uses':>5} {'elsewhere':>9}  nearest tokens that are not the concept's own (cosine)"
    for token in plan["tokens"][:_TOKENS]:
        near = ", ".join(f"{_shown(n['text'])} {n['cosine']:.2f}" for n in token["neighbours"])
        row = f"{_shown(token['text']):<{_TEXT}} {token['id']:>7} {token['uses']:>5} {token['outside']:>9.1%}  {near}"
        yield row if len(row) <= WIDTH + 4 else f"{row[:WIDTH + 3]}…"
    if len(plan["tokens"]) > _TOKENS:
        yield f"and {len(plan['tokens']) - _TOKENS} more (--json)"
    yield from _wrapped(f"uses: in the pack's texts on the concept. elsewhere: the {plan['reference']}.")
    shown = [t for t in plan["tokens"] if t["examples"]][:3]
    if shown:
        yield "\nThe tokens used most elsewhere, as the concept's texts use them"
    for token in shown:
        yield from _wrapped(token["examples"][0], f"{_shown(token['text']):<{_TEXT}} ")


def _ways(plan: Mapping[str, Any]) -> Iterator[str]:
    machine, read = plan["machine"], plan["read"]
    yield (f"\nread for this plan: {read['rows']:,} rows; {_size(read['bytes_fetched'])} fetched by range, "
           f"{_size(read['companion_bytes'])} of tokenizer and texts")
    yield (f"this machine ({machine['device']}): {_size(machine['memory'])} of memory and {_size(machine['disk'])} of disk free; "
           "estimates:")
    yield f"{'flags':<42} {'download':>9} {'disk':>9} {'memory':>9} {'time':>9}  possible"
    for way in plan["ways"]:
        sizes = " ".join(f"{_size(way[key]):>9}" for key in ("download", "disk", "memory"))
        yield f"{way['flags']:<42} {sizes} {_time(way['seconds']):>9}  {'no' if way['blocked'] else 'yes'}"
    yield from _wrapped("time: without the download. The first way measures nothing, and takes a fixed strength "
                        f"({plan['strength']:g}).")


def _wrapped(text: str, first: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False)


def _shown(text: str) -> str:
    """A token with its leading space in sight, and nothing that would move the cursor."""
    plain = "".join(c if c.isprintable() else "�" for c in text.replace(" ", "·"))
    return plain if len(plain) <= _TEXT else f"{plain[:_TEXT - 1]}…"


def _share(text: str, value: float | None) -> str:
    return "" if value is None else text.format(f"{value:.0%}")


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count else "0"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.0f} h"
