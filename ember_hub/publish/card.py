"""The model card: everything a reader of the repository needs, from the run's report alone.

Whatever comes from outside (titles, token texts, names, the command) passes one filter, `escape`, on its way into
Markdown; only text made here is `Safe`, and the base's own card, which stands apart and says whose it is. The tests of a concept
pack are no benchmark of the Hub, so their results go into `model-index`; see `eval_results` for those that are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ember_hub.errors import PublishError
from ember_hub.evaluation.titles import columns, in_order, score_title, sentence, state_heading
from ember_hub.evaluation.verdict import NO_ATTACK
from ember_hub.publish import base_card as original
from ember_hub.publish.citation import bibtex
from ember_hub.publish.markup import LOCAL_PATH, Safe, block, code, escape, limit, number, one_line, reference, table
from ember_hub.publish.push import Form, default_repo
from ember_hub.publish.report.alt import alt_text
from ember_hub.publish.view import carries_less, of_form, reason
from ember_hub.source.ref import is_repo_id

BASE_WORDS = "<!-- from here on: the base's own words -->"
"""What stands after it is not ours."""
TOKENS_SHOWN = 60


def render(report: Mapping[str, Any], form: Form, *, base_card: str | None = None,
           target_repo: str | None = None) -> str:
    """The README.md of a published model or patch.

    Args:
        base_card: the base's own README.md, for its language, and to be kept below where its licence lets us.
        target_repo: where it is going to lie; a placeholder is shown when unknown.
    """
    from jinja2 import Environment, StrictUndefined

    is_part, report = carries_less(report, form), of_form(report, form)
    repo = target_repo or default_repo("your-name", report["model"]["name"], report["concept"]["name"], form)
    environment = Environment(finalize=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True)
    template = (files("ember_hub.publish") / "templates" / "card.md.jinja").read_text(encoding="utf-8")
    base = _base(report["model"], base_card)
    measure = block(shlex.join(["ember-hub", "verify", repo, "--base", base["base_name"], "--concept", report["concept"]["name"]]))
    values = {**report, **_parts(report, form), **base, "form": form, "repo": Safe(repo), "measure": measure,
              "carries_less": is_part, "reason": lambda name: reason(report, name)}
    body = environment.from_string(template).render(values)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{_metadata(report, form, base_card, repo)}\n---\n\n{body}\n"


def validate(card_text: str) -> None:
    """Check a card without asking the Hub.

    Raises:
        PublishError: its metadata is missing, broken or incomplete, or a path of this machine is in it.
    """
    hint = "this is a defect of the card, not of the model: render it again with `ember-hub card RUN`"
    data = _front_matter(card_text)
    missing = [key for key in ("license", "library_name", "pipeline_tag", "tags") if not (data or {}).get(key)]
    if data is None or missing:
        raise PublishError(f"the card's metadata has no {', '.join(missing)}", hint=hint)
    if "base_model" in data and not is_repo_id(str(data["base_model"])):
        raise PublishError(f"the card names {data['base_model']!r} as base, which is no repository", hint=hint)
    ours, home = card_text.partition(BASE_WORDS)[0], str(Path.home())
    # A user without a folder lives in the root, which every address passes through.
    at_home = re.search(rf"(?<![\w.]){re.escape(home)}(?![\w-])", ours) if home != "/" else None
    if found := LOCAL_PATH.search(ours) or at_home:
        line = card_text[: found.start()].count("\n") + 1
        raise PublishError(f"line {line} of the card holds a path of this machine", hint=hint)


def figures(report: Mapping[str, Any], form: Form) -> tuple[str, ...]:
    """Names of the figures that the card of this form shows, as `ember/NAME.png`."""
    shown = of_form(report, form)
    has = {"attacks": any("edited" in attack["arms"] for attack in shown["attacks"]), "relearning": bool(shown["curves"]),
           "layers": any(len(c["value"]) > 1 for states in shown["layers"].values() for c in states.values()),
           "tokens": any(t["mu"] is not None and t["tfidf"] is not None for t in shown["tokens"])}
    return tuple(name for name, is_drawn in has.items() if is_drawn)


def _cell(score: Mapping[str, Any] | None) -> Safe:
    if score is None:
        return Safe("–")
    low, high = (number(score[end], score["unit"]) for end in ("low", "high"))
    return Safe(f"{number(score['value'], score['unit'])}<br><sub>[{low},&nbsp;{high}]</sub>")


def _parts(report: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """What the template shows and the report does not hold in that shape."""
    scores = {(score["name"], score["stage"]): score for score in report["scores"]}
    attacks = [row for row in report["attacks"] if not row["not_measured"]]
    names = list(dict.fromkeys(name for name, _ in scores))
    is_knowledge = re.compile(r".*_(known|all)").fullmatch
    ember, repo_id = report["ember"], report["model"]["repo_id"]
    link = re.fullmatch(r"https?://[\w.~%/+?=#&-]+", report["model"]["licence"]["link"] or "", re.ASCII)
    return {
        "knowledge": _results(scores, [name for name in names if is_knowledge(name)]),
        "language": _results(scores, [name for name in names if not is_knowledge(name)]),
        "controls": _controls(scores), "attacked": _attacked(attacks),
        "judged": Safe(", ".join(escape(e["title"]) for e in report["evaluations"] if e["settings"].get("judge"))),
        "tried": Safe(", ".join(escape(row["title"]) for row in attacks)),
        "failed": [gate for gate in report["gates"] if not gate["passed"]], "worst": _worst(report),
        "gates": table(["", "Value", "Limit", ""], [
            [gate["name"].capitalize(), limit(gate["value"]), limit(gate["limit"]),
             "holds" if gate["passed"] else Safe("**fails**")] for gate in report["gates"]]),
        "steps": table(["Method, in this order", "Settings", "Reference"], [
            [method["title"], Safe(", ".join(f"{escape(k)} {escape(v)}" for k, v in method["settings"].items())),
             reference(method["reference"])] for method in report["methods"]], left=3),
        "tokens": _tokens(ember["tokens"]) if ember else "",
        "shown": min(TOKENS_SHOWN, len(ember["tokens"])) if ember else 0,
        "command": block(report["command"]), "code": code, "number": number, "limit": limit,
        "bounds": _bounds(report), "count": lambda n: f"{n:,}",
        "reference": reference, "licence_link": Safe(link[0]) if link else "",
        "figures": [{"name": name, "path": Safe(f"ember/{name}.png"), "alt": alt_text(report, name)}
                    for name in figures(report, form)],
        "unmeasured": report["battery"] == "none", "bibtex": Safe(bibtex(report["methods"])),
        "hours": f"{sum(report['seconds'].values()) / 3600:.2f} hours",
        "others": [method for method in report["methods"] if method["name"] != "ember"],
        "base": Safe(f"[{escape(repo_id)}](https://huggingface.co/{repo_id})")
        if repo_id and is_repo_id(repo_id) else report["model"]["name"],
        "exported": (report["out"] or {}).get(form), "has": lambda stage: any(s == stage for _, s in scores),
    }


def _base(model: Mapping[str, Any], base_card: str | None) -> dict[str, Any]:
    """How the base is called in commands, and its own card or the way to it."""
    repo_id = model["repo_id"] if model["repo_id"] and is_repo_id(model["repo_id"]) else None
    text = original.kept(base_card, model["licence"]["id"], repo_id, model["commit"])
    return {"base_name": Safe(repo_id) if repo_id else "BASE", "base_text": Safe(text) if text else "",
            "base_link": Safe(f"[{escape(repo_id)}](https://huggingface.co/{repo_id})") if repo_id else ""}


def _bounds(report: Mapping[str, Any]) -> dict[str, Safe]:
    """The 95 % interval of each verdict, small, as it stands below the number."""
    found = {**(report["intervals"] or {}), "recovered": report["recovered_interval"]}
    return {name: Safe(f"<br><sub>[{number(ends[0])},&nbsp;{number(ends[1])}]</sub>" if ends else "")
            for name in ("efficacy", "specificity", "coherence", "harmonic", "recovered") for ends in [found.get(name)]}


def _worst(report: Mapping[str, Any]) -> str | None:
    """The title of the worst attack; none where no attack shows more than is there anyway."""
    worst = report["worst_attack"]
    return worst["title"] if worst and worst["name"] != NO_ATTACK else None


def _when(stage: str) -> str:
    return {"base": "before", "edited": "after"}.get(stage) or stage.partition(":")[2]


def _results(scores: Mapping[tuple[str, str], Mapping[str, Any]], names: Sequence[str]) -> Safe:
    """Before and after: one row for each name."""
    rows = []
    for name in in_order(names):
        found = [scores[name, stage] for stage in ("base", "edited") if (name, stage) in scores]
        counts, chance = dict.fromkeys(score["n"] for score in found), {s["chance"] for s in found} - {None}
        rows.append([score_title(name), *(_cell(scores.get((name, stage))) for stage in ("base", "edited")),
                     ", ".join(map(str, counts)), number(min(chance, default=None))])
    return table(["", "Before", "After", "n", "Chance"], [row for row in rows if row[-2]])


def _controls(scores: Mapping[tuple[str, str], Mapping[str, Any]]) -> Safe:
    """What each part of the edit does on its own."""
    arms = columns(stage.removeprefix("control:") for _, stage in scores if stage.startswith("control:") and "+" not in stage)
    names = ("concept_known", "near_domain_known", "general_known")
    rows = [[state_heading(arm), *(_cell(scores.get((name, stage))) for name in names)]
            for arm, stage in [("base", "base"), ("edited", "edited"), *((a, f"control:{a}") for a in arms)]] if arms else []
    return table(["", *map(score_title, names)], rows)


def _attacked(attacks: Sequence[Mapping[str, Any]]) -> Safe:
    """Accuracy on known concept questions under each attack, for this model and its controls; the worst first."""
    arms = columns(arm for row in attacks for arm in row["arms"])
    rows = []
    for row in sorted(attacks, key=lambda row: (not row["is_worst"], -(row["recovered"] or 0.0))):
        note = "hands the answers over" if row["hands_over"] else "by definition" if row["restores_by_definition"] else ""
        share = Safe(f"{number(row['recovered'])}<br><sub>{note}</sub>" if note else number(row["recovered"]))
        rows.append([sentence(row["title"]), *(_cell(row["arms"].get(arm) and {"unit": "accuracy", **row["arms"][arm]})
                                                  for arm in arms), share])
    return table(["", *map(state_heading, arms), "Brought back"], rows)


def _tokens(tokens: Sequence[Mapping[str, Any]]) -> Safe:
    farthest = sorted(tokens, key=lambda token: -token["moved"])[:TOKENS_SHOWN]
    return table(["Token", "Id", "Purity", "Moved"], [
        [code(t["text"]), t["id"], number(t["purity"]), number(t["moved"])] for t in farthest])


def _metadata(report: Mapping[str, Any], form: Form, base_card: str | None, repo: str) -> str:
    from huggingface_hub import ModelCardData

    model, licence = report["model"], report["model"]["licence"]
    is_named = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence["id"]) and licence["id"] != "unknown"
    language = (_front_matter(base_card or "") or {}).get("language")
    languages = [language] if isinstance(language, str) else language if isinstance(language, list) else []
    results = _eval_results(report)
    data = ModelCardData(
        base_model=model["repo_id"] if model["repo_id"] and is_repo_id(model["repo_id"]) else None,
        base_model_relation="adapter" if form == "patch" else "finetune",
        library_name="peft" if form == "patch" else "transformers", pipeline_tag="text-generation",
        license=licence["id"] if is_named else "other",
        license_name=_bare(licence["name"] or ("" if is_named else licence["id"])) or None,
        license_link=_bare(licence["link"] or "") or None,
        language=[_bare(code) for code in languages if isinstance(code, str)] or None,
        tags=["ember-hub", "unlearning", "concept-erasure", *(_slug(method["name"]) for method in report["methods"]
                                                              if method["name"] == "ember" or not carries_less(report, form)),
              _slug(report["concept"]["name"])],
        model_name=repo.rpartition("/")[2] if results else None, eval_results=results or None)
    if data.base_model is None:
        data.pop("base_model_relation")
    return data.to_yaml()


def _eval_results(report: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    subject = {"concept": _bare(report["concept"]["title"]), "near_domain": "near topics", "general": "general topics"}
    return [EvalResult(
        task_type="text-generation", dataset_type=f"ember-hub-{_slug(report['concept']['name'])}", dataset_config=part,
        dataset_name=f"Questions: {subject[part]}", dataset_split=score["split"], metric_type="accuracy",
        metric_name=f"Accuracy, {score['name'].rpartition('_')[2]} questions, {_bare(_when(score['stage']))}",
        metric_value=score["value"])
        for score in report["scores"] for part in [score["name"].rpartition("_")[0]]
        if part in subject and score["unit"] == "accuracy" and number(score["value"]) != "–"
        and (score["stage"] in ("base", "edited") or (score["name"] == "concept_known" and score["stage"].startswith("attack:")))]


def _bare(text: str) -> str:
    return LOCAL_PATH.sub("", one_line(text))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _front_matter(text: str) -> dict[str, Any] | None:
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    try:
        data = yaml.safe_load(block[2]) if block else None
    except yaml.YAMLError:
        return None
    return data if isinstance(data, dict) else None
