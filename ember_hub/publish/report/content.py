"""What the report says, before it is set as a page or as Markdown: headline, verdicts and tables, from report.json alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ember_hub.evaluation.titles import PARTS, columns, in_order, score_title, sentence, state_heading, state_title
from ember_hub.evaluation.verdict import LEFT_OUT, NO_ATTACK
from ember_hub.publish.view import AT_CHANCE, reason

TOKENS_SHOWN = 60


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval; a dash where nothing was measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 2

    @classmethod
    def of(cls, row: Mapping[str, Any] | None) -> Measure:
        """A score, or an accuracy under attack."""
        if row is None:
            return cls(None)
        return cls(row["value"], row["low"], row["high"], 3 if row.get("unit") == "nats" else 2)

    @property
    def text(self) -> str:
        return "–" if self.value is None else f"{self.value:.{self.digits}f}"

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else f"{self.low:.{self.digits}f}–{self.high:.{self.digits}f}"


@dataclass(frozen=True)
class Token:
    """The text of a token, as a cell."""

    text: str


@dataclass(frozen=True)
class Reference:
    """Where a method comes from, as a cell: an arXiv number or a project."""

    text: str


@dataclass(frozen=True)
class Titled:
    """The first cell of a row: a title with a remark; the one that counts most stands out."""

    title: str
    remark: str = ""
    stands_out: bool = False


Cell = str | Measure | Token | Reference | Titled


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first `texts` columns hold words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1


@dataclass(frozen=True)
class Verdict:
    """One result of the run as a share between 0 and 1, and what it says."""

    name: str
    title: str
    share: Measure
    says: str


def title(report: Mapping[str, Any]) -> tuple[str, str]:
    """What this is about, and which model it was done to."""
    concept, base = report["concept"]["title"], report["model"]["name"]
    if report["audited"]:
        return f"Is “{concept}” erased?", f"An audit of {report['audited']['name']} against {base}"
    return f"Erasing “{concept}”", f"from {base}"


def claim(report: Mapping[str, Any]) -> str:
    """The worst case in one sentence, as far as anything was measured."""
    worst, share = report["worst_attack"], Measure(report["recovered"], *(report["recovered_interval"] or ()))
    if worst and share.value is not None:
        interval = share.interval.replace("–", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")
        sure = f" ({interval})" if interval else ""
        return f"Worst case: “{worst['title']}” brings back {share.text}{sure} of what the base knew." \
            if worst["name"] != NO_ATTACK else (
            f"Worst case: without any attack {share.text}{sure} of what the base knew is still there; no attack shows more.")
    if report["battery"] == "none":
        return "Nothing was measured: how the edited model answers, and how easily the knowledge comes back, is not known."
    why = reason(report, "recovered")
    if why == AT_CHANCE:
        return "Nothing can be claimed: on the concept, the base itself is not clearly above chance."
    return f"How easily the knowledge comes back is not known: {why}."


def verdicts(report: Mapping[str, Any]) -> list[Verdict]:
    """What was erased, what survived, what comes back, and how the model writes."""
    told = (("efficacy", "Erased", "of what the base knew about the concept is gone"),
            ("specificity", "Survived", "of what it knew about near topics and the world is left"),
            ("recovered", "Brought back", "of what it knew about the concept is there in the worst case"),
            ("coherence", "Fluent", "of its fluency and readiness to answer is left"))
    bounds = {**(report["intervals"] or {}), "recovered": report["recovered_interval"]}
    return [Verdict(name, heading, Measure(report[name], *(bounds.get(name) or ())), says) for name, heading, says in told]


def failed_gates(report: Mapping[str, Any]) -> list[str]:
    """Limits of the run that do not hold."""
    return [f"{gate['name']} " + ("was not measured" if gate["value"] is None else f"is {gate['value']:.4g}")
            + f", the limit is {gate['limit']:.4g}" for gate in report["gates"] if not gate["passed"]]


def before_after(report: Mapping[str, Any]) -> Table:
    """Every measure before, after, and under the worst attack."""
    by = {(s["name"], s["stage"]): s for s in report["scores"]}
    worst = report["worst_attack"]
    stages = ["base", "edited", *([f"attack:{worst['name']}"] if worst and worst["name"] != NO_ATTACK else [])]
    rows: list[list[Cell]] = []
    for name in in_order(name for name, stage in by if stage in stages):
        found = [by.get((name, stage)) for stage in stages]
        counts, chance = {s["n"] for s in found if s}, {s["chance"] for s in found if s} - {None}
        rows.append([score_title(name), *map(Measure.of, found), _p(by.get((name, "edited"))),
                     "–".join(map(str, sorted({min(counts), max(counts)}))), _chances(chance)])
    return Table(["", "Before", "After", *["Worst attack"][:len(stages) - 2], "p", "n", "Chance"], rows)


def attacks(report: Mapping[str, Any], *, are_counted: bool) -> Table:
    """Accuracy on known concept questions under each attack beside the controls, what brings back most first.

    Args:
        are_counted: those that may be the worst case, or those that hand the answers over or undo the edit by definition.
    """
    measured = [a for a in report["attacks"] if a["arms"]]
    states = columns(state for a in measured for state in a["arms"])
    chosen = [a for a in measured if are_counted != (a["hands_over"] or a["restores_by_definition"])]
    rows: list[list[Cell]] = [
        [_attack(a), Measure(a["recovered"], *(a["recovered_interval"] or ())),
         *(Measure.of(a["arms"].get(state)) for state in states), Measure(a["taught"]).text]
        for a in sorted(chosen, key=lambda a: -(a["recovered"] or 0.0))]
    return Table(["", "Recovered", *map(state_heading, states), "Taught"], rows)


def controls(report: Mapping[str, Any]) -> Table:
    """What the base, the edited model and each control know without any attack."""
    by = {(s["name"], s["stage"].removeprefix("control:")): s for s in report["scores"] if "+" not in s["stage"]}
    names = ("concept_known", "near_domain_known", "general_known")
    states = [state for state in dict.fromkeys(["base", "edited", *(state for _, state in by)])
              if not state.startswith("attack:") and any((name, state) in by for name in names)]
    rows: list[list[Cell]] = [[state_heading(state), *(Measure.of(by.get((name, state))) for name in names)] for state in states]
    return Table(["", "Concept", "Near topics", "General"], rows)


def evaluations(report: Mapping[str, Any]) -> Table:
    """What was measured, and why not if it was not, by which instrument with which settings."""
    rows = [[Titled(sentence(i["title"]), "" if i["reproducible"] else "not reproducible"),
             f"no: {i['not_measured']}" if i["not_measured"] else "yes", i["battery"], Reference(i["reference"]),
             settings(i["settings"])]
            for i in (*report["evaluations"], *report["attacks"])]
    return Table(["", "Measured", "Battery", "Source", "Settings"], rows, texts=5)


def tokens(report: Mapping[str, Any]) -> Table:
    """The edited rows, the farthest moved first."""
    farthest = sorted(report["tokens"], key=lambda t: -(t["moved"] if t["mu"] is None else t["mu"]))[:TOKENS_SHOWN]
    return Table(["Token", "Id", "μ = ‖Δe‖", "‖Δe‖ / ‖e‖", "TF-IDF"], [
        [Token(t["text"]), str(t["id"]), Measure(t["mu"], digits=3).text, Measure(t["moved"]).text, Measure(t["tfidf"]).text]
        for t in farthest])


def methods(report: Mapping[str, Any]) -> Table:
    """What changed the model, in this order."""
    return Table(["Method", "Settings", "Source"], [
        [m["title"], settings(m["settings"]), Reference(m["reference"])] for m in report["methods"]], texts=3)


def facts(report: Mapping[str, Any]) -> Table:
    """With what it was made, for whoever repeats it."""
    model, audited, concept = report["model"], report["audited"], report["concept"]
    rows = [["Base", f"{model['repo_id'] or model['name']} at {model['commit'] or 'an unknown commit'}"],
            ["Parameters", f"{model['parameters']:,}"], ["Licence of the base", model["licence"]["name"] or model["licence"]["id"]],
            ["Concept pack", f"{concept['name']}, SHA-256 {concept['sha256'][:12]}…, {concept['licence']}"]]
    if audited:
        rows.insert(1, ["Audited", f"{audited['repo_id'] or audited['name']} at {audited['commit'] or 'an unknown commit'}"])
    known = (report["known"] or {}).items()
    asked = ", ".join(f"{PARTS.get(part, part)} {row['known']} of {row['asked']}" for part, row in known)
    rows += [["Questions the base knows", asked or "not measured"], ["Battery", battery(report)], ["Seed", str(report["seed"])],
             *([name, text] for name, text in report["environment"].items()),
             ["Time", f"{sum(report['seconds'].values()) / 60:,.1f} minutes"]]
    return Table(["", ""], rows, texts=2)


def battery(report: Mapping[str, Any]) -> str:
    """Which battery was run, and whether all of it was."""
    left_out = any(i["not_measured"] == LEFT_OUT for i in (*report["evaluations"], *report["attacks"]))
    return f"{report['battery']}, in part" if left_out else report["battery"]


def attacked_controls(report: Mapping[str, Any]) -> str:
    """Which model states were attacked beside the edited one, in words."""
    told = {"base": "the unedited base", "never-known": "the base with a concept that nobody can know", "random-edit":
            "a random edit of the same size in its place" if report["audited"] else
            "a random edit of the same size in EMBER's place"}
    found = list(dict.fromkeys(s for attack in report["attacks"] for s in attack["arms"] if s != "edited"))
    words = [told.get(state) or state_title(state) for state in found]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def settings(values: Mapping[str, Any]) -> str:
    """Settings on one line, less those that are not set."""
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in values.items() if value is not None)


def _attack(attack: Mapping[str, Any]) -> Titled:
    remarks = (("hands the answers over: a model that never knew answers too", attack["hands_over"]),
               ("undoes the edit by definition", attack["restores_by_definition"]), ("worst case", attack["is_worst"]),
               ("not reproducible", not attack["reproducible"]))
    return Titled(sentence(attack["title"]), "; ".join(remark for remark, holds in remarks if holds), attack["is_worst"])


def _chances(found: Iterable[float]) -> str:
    """An attack that asks in another way may have another chance level."""
    return "–".join(f"{chance:.2f}" for chance in sorted(set(found))) or Measure(None).text


def _p(score: Mapping[str, Any] | None) -> str:
    if score is None or score["p"] is None:
        return "–"
    return f"{score['p']:.3f}" if score["p"] >= 0.001 else "< 0.001"
