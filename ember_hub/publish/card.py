"""The model card: everything a reader of the repository needs, from the run's report alone.

Whatever comes from outside (titles, token texts, names, the command) passes one filter, `escape`, on its way into
Markdown; only text made here is `Safe`. No `.eval_results/` files are written: the Hub takes an entry there only with
the id of a benchmark dataset on the Hub, and the tests of a concept pack are none. The results go into `model-index`.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from ember_hub.errors import PublishError
from ember_hub.publish.push import Form, default_repo
from ember_hub.publish.view import of_form
from ember_hub.source.ref import is_repo_id

FIGURE = "ember/relearning.png"
"""Where the card expects the relearning figure."""
TOKENS_SHOWN = 60
TITLES: Mapping[str, str] = MappingProxyType({
    "base": "Before", "edited": "After",
    "attack:relearn-paper": "After paper relearning", "attack:relearn-strong": "After strong relearning",
    "concept_known": "Concept, known", "concept_all": "Concept, all",
    "near_domain_known": "Near topics, known", "near_domain_all": "Near topics, all",
    "general_known": "General, known", "general_all": "General, all",
    "concept_probability": "Right answer's probability: concept",
    "near_domain_probability": "Right answer's probability: near topics",
    "general_probability": "Right answer's probability: general",
    "valid_mass_concept": "Probability on valid answers: concept",
    "valid_mass_other": "Probability on valid answers: other questions",
    "neutral_loss": "Loss on neutral text (nats a token)",
    "neutral_kl": "Divergence from the base on neutral text (nats a token)",
})
_ARMS: Mapping[str, str] = MappingProxyType({
    "edited": "This model", "base": "Unedited base", "ember-only": "EMBER alone", "rmu-only": "RMU alone",
    "random-edit": "Random edit of the same size",
})
_EDGE = r"(?<![\w./<~-])"
_LOCAL_PATH = re.compile(rf"file:/+|{_EDGE}(?:~?/(?=[^\s/])|~(?=\w)|[A-Za-z]:\\)")
_LONG_PATH = re.compile(rf"(?:file:/+|{_EDGE}(?:~\w*/|/(?=[^\s/]+/)|[A-Za-z]:\\))[^\s\"'`|,;:)\]]+")
_SPECIAL = re.compile(r"[\\`*\[\]<>&|{}#~$@]|(?<![^\W_])_|_(?![^\W_])|-{3,}|://|(?<=www)\.|(?<![\w.])/|^[-+=]"
                      r"|^\d+[.)](?=\s|$)")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Safe(str):
    """Text that is Markdown already."""


def render(report: Mapping[str, Any], form: Form, *, base_card: str | None = None,
           target_repo: str | None = None) -> str:
    """The README.md of a published model or patch.

    Args:
        base_card: the base's own README.md, for its language.
        target_repo: where it is going to lie; a placeholder is shown when unknown.
    """
    from jinja2 import Environment, StrictUndefined

    report = of_form(report, form)
    repo = target_repo or default_repo("your-name", report["model"]["name"], report["concept"]["name"], form)
    environment = Environment(finalize=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True)
    template = (files("ember_hub.publish") / "templates" / "card.md.jinja").read_text(encoding="utf-8")
    values = {**report, **_parts(report, form), "form": form, "repo": Safe(repo)}
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
    home = re.search(rf"(?<![\w.]){re.escape(str(Path.home()))}(?![\w-])", card_text)
    if found := _LOCAL_PATH.search(card_text) or home:
        line = card_text[: found.start()].count("\n") + 1
        raise PublishError(f"line {line} of the card holds a path of this machine", hint=hint)


def escape(value: object) -> str:
    """The filter every value passes on its way into the Markdown: harmless there, in HTML and in a table cell."""
    if isinstance(value, Safe):
        return value
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return _SPECIAL.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0]), _one_line(str(value)))


def _one_line(text: str) -> str:
    """The text with its line breaks gone, invisible and reordering characters shown, and local paths cut to a name."""
    text = _LONG_PATH.sub(lambda match: f"path/to/{PurePath(match[0].replace(chr(92), '/')).name}", text)
    text = re.sub(r"[ \t\r\n\v\f\x85\u2028\u2029]+", " ", text)
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _INVISIBLE else c for c in text)


def _code(text: object) -> Safe:
    shown = re.sub(r"^ | $", "␣", _one_line(str("not recorded" if text is None else text))) or "(empty)"
    return Safe(f"<code>{escape(shown)}</code>")


def _block(command: str) -> Safe:
    """A command as a fenced block that it cannot leave, without the paths of this machine."""
    try:
        words = [_one_line(word) for word in shlex.split(command)]
    except ValueError:
        words = _one_line(command).split()
    line = _LOCAL_PATH.sub("", " ".join(w if re.fullmatch(r"[\w@%+=:,./-]+", w) else shlex.quote(w) for w in words))
    fence = "`" * max(3, *(len(run) + 1 for run in ["``", *re.findall("`+", line)]))
    return Safe(f"{fence}bash\n{line}\n{fence}")


def _table(header: Sequence[object], rows: Iterable[Sequence[object]], left: int = 1) -> Safe:
    """A Markdown table whose first `left` columns are text and the others numbers; empty without rows."""
    ruler = [":--" if i < left else ":-:" for i in range(len(header))]
    lines = [[*map(escape, row)] for row in rows]
    whole = [[*map(escape, header)], ruler, *lines] if lines else []
    return Safe("\n".join(f"| {' | '.join(line)} |" for line in whole))


def _number(value: float | None, unit: str = "accuracy") -> Safe:
    if value is None or value != value:
        return Safe("–")
    return Safe(f"{value:.2f}" if unit == "accuracy" else f"{value:.3f}")


def _cell(score: Mapping[str, Any] | None) -> Safe:
    if score is None:
        return Safe("–")
    low, high = (_number(score[end], score["unit"]) for end in ("low", "high"))
    return Safe(f"{_number(score['value'], score['unit'])}<br><sub>[{low},&nbsp;{high}]</sub>")


def _parts(report: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """What the template shows and the report does not hold in that shape."""
    scores = {(score["name"], score["stage"]): score for score in report["scores"]}
    attacks = [stage for stage in dict.fromkeys(stage for _, stage in scores) if stage.startswith("attack:")]
    names = list(dict.fromkeys(name for name, _ in scores))
    is_knowledge = re.compile(r".*_(known|all)").fullmatch
    ember, repo_id = report["ember"], report["model"]["repo_id"]
    link = re.fullmatch(r"https?://[\w.~%/+?=#&-]+", report["model"]["licence"]["link"] or "", re.ASCII)
    return {
        "knowledge": _results(scores, [name for name in names if is_knowledge(name)], attacks),
        "language": _results(scores, [name for name in names if not is_knowledge(name)], attacks),
        "controls": _controls(scores, attacks), "regained": _regained(report), "attacks": [_title(a) for a in attacks],
        "failed": [gate for gate in report["gates"] if not gate["passed"]], "worst": _worst(scores, attacks),
        "gates": _table(["", "Value", "Limit", ""], [
            [gate["name"].capitalize(), _number(gate["value"]), _number(gate["limit"]),
             "holds" if gate["passed"] else Safe("**fails**")] for gate in report["gates"]]),
        "steps": _table(["Method, in this order", "Settings", "Reference"], [
            [method["title"], Safe(", ".join(f"{escape(k)} {escape(v)}" for k, v in method["settings"].items())),
             _reference(method["reference"])] for method in report["methods"]], left=3),
        "tokens": _tokens(ember["tokens"]) if ember else "",
        "shown": min(TOKENS_SHOWN, len(ember["tokens"])) if ember else 0,
        "command": _block(report["command"]), "code": _code, "number": _number, "count": lambda n: f"{n:,}",
        "reference": _reference, "figure": Safe(FIGURE), "licence_link": Safe(link[0]) if link else "",
        "others": [method for method in report["methods"] if method["name"] != "ember"],
        "base": Safe(f"[{escape(repo_id)}](https://huggingface.co/{repo_id})")
        if repo_id and is_repo_id(repo_id) else report["model"]["name"],
        "exported": (report["out"] or {}).get(form), "has": lambda stage: any(s == stage for _, s in scores),
    }


def _title(name: str) -> str:
    return TITLES.get(name, name.partition(":")[2] or name)


def _results(scores: Mapping[tuple[str, str], Mapping[str, Any]], names: Sequence[str], attacks: Sequence[str]) -> Safe:
    """Before, after and after each attack: one row for each name."""
    stages, rows = ["base", "edited", *attacks], []
    for name in sorted(names, key=lambda name: [*TITLES, name].index(name)):
        found = [scores[name, stage] for stage in stages if (name, stage) in scores]
        counts, chance = dict.fromkeys(score["n"] for score in found), {s["chance"] for s in found} - {None}
        rows.append([_title(name), *(_cell(scores.get((name, stage))) for stage in stages),
                     ", ".join(map(str, counts)), _number(min(chance, default=None))])
    return _table(["", *map(_title, stages), "n", "Chance"], [row for row in rows if row[-2]])


def _controls(scores: Mapping[tuple[str, str], Mapping[str, Any]], attacks: Sequence[str]) -> Safe:
    """What each part of the edit does on its own, and what the attacks do to the base."""
    arms = dict.fromkeys(stage.removeprefix("control:").partition("+")[0] for _, stage in scores if "control:" in stage)
    names, rows = ("concept_known", "near_domain_known", "general_known"), []
    for arm in dict.fromkeys(["base", "edited", *arms]) if arms else ():
        plain = arm if arm in ("base", "edited") else f"control:{arm}"
        attacked = [a if arm == "edited" else f"control:{arm}+{a.removeprefix('attack:')}" for a in attacks]
        rows.append([_ARMS.get(arm, arm), *(_cell(scores.get((name, plain))) for name in names),
                     *(_cell(scores.get(("concept_known", stage))) for stage in attacked)])
    return _table(["", *map(_title, names), *(f"Concept, {_title(a).lower()}" for a in attacks)], rows)


def _regained(report: Mapping[str, Any]) -> Safe:
    levels = list(dict.fromkeys(level for arm in report["regained"].values() for level in arm))
    rows = [[_ARMS.get(arm, arm), *(_number(values.get(level)) for level in levels)]
            for arm, values in report["regained"].items() if values]
    return _table(["", *(_title(f"attack:{level}") for level in levels)], rows)


def _worst(scores: Mapping[tuple[str, str], Mapping[str, Any]], attacks: Sequence[str]) -> str | None:
    """The attack after which most known concept questions are answered."""
    tried = [attack for attack in attacks if ("concept_known", attack) in scores]
    worst = max(tried, key=lambda attack: scores["concept_known", attack]["value"], default=None)
    return worst and _title(worst).removeprefix("After ")


def _tokens(tokens: Sequence[Mapping[str, Any]]) -> Safe:
    farthest = sorted(tokens, key=lambda token: -token["moved"])[:TOKENS_SHOWN]
    return _table(["Token", "Id", "Purity", "Moved"], [
        [_code(t["text"]), t["id"], _number(t["purity"]), _number(t["moved"])] for t in farthest])


def _reference(text: str) -> str:
    number = re.fullmatch(r"arXiv[: ]?(\d{4}\.\d{4,5})", text)
    return Safe(f"[arXiv {number[1]}](https://arxiv.org/abs/{number[1]})") if number else text


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
        tags=["ember-hub", "unlearning", "concept-erasure", *(_slug(method["name"]) for method in report["methods"]),
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
        metric_name=f"Accuracy, {score['name'].rpartition('_')[2]} questions, {_bare(_title(score['stage'])).lower()}",
        metric_value=score["value"])
        for score in report["scores"] for part in [score["name"].rpartition("_")[0]]
        if part in subject and score["unit"] == "accuracy" and _number(score["value"]) != "–"
        and not score["stage"].startswith("control:")]


def _bare(text: str) -> str:
    return _LOCAL_PATH.sub("", _one_line(text))


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
