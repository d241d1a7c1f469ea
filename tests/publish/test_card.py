"""The model card: true to the report, valid for the Hub, and harmless whatever names and tokens it has to print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ember_hub.errors import PublishError
from ember_hub.evaluation.verdict import answering
from ember_hub.publish.card import escape, figures, render, validate

MARKDOWN = MarkdownIt("commonmark").enable("table")
NUMBER = re.compile(r"\d(?:[\d,]*\d)?(?:\.\d+)?(?:e-?\d+)?")
ARMS = ("edited", "base", "rmu-only", "random-edit")
KNOWN = {"concept": 21, "near_domain": 34, "general": 47}
NASTY = "a|b `c` *d* <script>alert(1)</script>\n---\n# {{ 7 * 7 }} \u202ex\x00 [y](http://z) /etc/passwd ~/secret"


def score(name: str, stage: str, value: float, n: int, unit: str = "accuracy") -> dict[str, Any]:
    half = 0.9 / n**0.5
    top = 1.0 if unit != "nats" else value + half
    return {"name": name, "stage": stage, "split": "test", "value": value, "n": n, "low": max(0.0, value - half),
            "high": min(top, value + half), "unit": unit, "chance": 0.25 if unit == "accuracy" else None,
            "better": "lower" if unit == "nats" else "higher", "p": None}


def _scores(attacks: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for i, part in enumerate(("concept", "near_domain", "general")):
        edited = (0.3095, 0.8824, 0.9149)[i]
        for kind, n, drop in (("known", KNOWN[part], 0.0), ("all", 60, 0.3)):
            found += [score(f"{part}_{kind}", "base", 0.9286 - drop, n),
                      score(f"{part}_{kind}", "edited", edited - drop / 2, n)]
            found += [score(f"{part}_{kind}", f"attack:{a}", 0.3571 + 0.2143 * j, n) for j, a in enumerate(attacks)]
        found += [score(f"{part}_probability", stage, value, KNOWN[part], "probability")
                  for stage, value in (("base", 0.6412), ("edited", 0.2518 + 0.2 * i))]
    for name, unit, before, after in (("valid_mass_concept", "mass", 0.0312, 0.0287), ("neutral_loss", "nats", 3.1174, 3.1523),
                                      ("neutral_kl", "nats", 0.0, 0.0417)):
        found += [score(name, "base", before, 50, unit), score(name, "edited", after, 50, unit)]
    for i, arm in enumerate(("ember-only", "rmu-only", "random-edit")):
        found += [score(name, f"control:{arm}", (0.5238, 0.3333, 0.9048)[i], KNOWN[name.removesuffix("_known")])
                  for name in ("concept_known", "near_domain_known", "general_known")]
    found += [score("concept_known", f"control:{arm}+{attack}", 0.9048 - 0.05 * i, KNOWN["concept"])
              for i, arm in enumerate(("base", "rmu-only", "random-edit")) for attack in attacks]
    return found


def _curves(attacks: tuple[str, ...]) -> list[dict[str, Any]]:
    ends = {"relearn-paper": (0.3571, 0.9524, 0.7619, 0.9048), "relearn-strong": (0.5714, 1.0, 0.9286, 0.9524)}
    found = []
    for level in attacks:
        epochs = [0, 1, 2] if level == "relearn-paper" else [0, 1, 2, 3]
        for arm, start, end in zip(ARMS, (0.3095, 0.9286, 0.3333, 0.9048), ends[level], strict=True):
            value = [start + (end - start) * (e / epochs[-1]) ** 0.5 for e in epochs]
            found.append({"arm": arm, "level": level, "epochs": epochs, "value": value,
                          "low": [max(0.0, v - 0.17) for v in value], "high": [min(1.0, v + 0.15) for v in value]})
    return found


def _attacked(attacks: tuple[str, ...]) -> list[dict[str, Any]]:
    """The worst first as the report has it; every arm with its interval."""
    def arm(value: float) -> dict[str, Any]:
        return {"value": value, "low": value / 2, "high": min(1.0, value * 1.5), "n": 21, "chance": 0.25}

    return [{"name": name, "title": name.replace("-", " "), "reference": "arXiv 2606.03695", "battery": "quick",
             "reproducible": True, "settings": {}, "not_measured": None,
             "recovered": 0.2105 + 0.2632 * i, "recovered_interval": [0.2213, 0.7318],
             "arms": {state: arm(0.3571 + 0.1 * i) for state in (*ARMS, "never-known")}, "taught": 0.0714, "hands_over": False,
             "restores_by_definition": False, "is_worst": i == len(attacks) - 1} for i, name in enumerate(attacks)]


def example_report(*, with_ember: bool = True, attacks: tuple[str, ...] = ("relearn-paper", "relearn-strong"),
                   tokens: int = 75) -> dict[str, Any]:
    """A finished run's report, complete and plausible."""
    ember = {"name": "ember", "title": "EMBER", "reference": "arXiv 2606.03695", "settings": {"rank": 100, "strength": 4.0}}
    rmu = {"name": "rmu", "title": "RMU (representation misdirection)", "reference": "arXiv 2403.03218",
           "settings": {"depth": 0.25, "learning_rate": 0.0003, "steps": 80}}
    moved = [{"id": 40000 + i, "text": f" covid{i}", "purity": 1 - i / 200, "moved": 2.5 - i / 50} for i in range(tokens)]
    return {
        "schema": 2, "version": "0.1.0", "kind": "erasure", "audited": None, "battery": "quick", "evaluations": [], "layers": {},
        "ember_alone": None, "ember_alone_intervals": None,
        "intervals": {"efficacy": [0.78, 0.99], "specificity": [0.85, 0.98], "coherence": [0.93, 0.97], "harmonic": [0.85, 0.98]},
        "attacks": _attacked(attacks), "tokens": [],
        "worst_attack": {"name": attacks[-1], "title": attacks[-1].replace("-", " ")} if attacks else None,
        "seed": 42, "format": "answer",
        "command": "ember-hub erase HuggingFaceTB/SmolLM2-135M-Instruct --concept covid-19-pandemic --method rmu",
        "model": {"name": "SmolLM2-135M-Instruct", "repo_id": "HuggingFaceTB/SmolLM2-135M-Instruct", "commit": "12fd25f7" * 5,
                  "source_kind": "hub", "gated": False, "is_tied": True, "parameters": 134515008,
                  "licence": {"id": "apache-2.0", "name": None, "link": None, "files": []}},
        "concept": {"name": "covid-19-pandemic", "title": "COVID-19 pandemic", "sha256": "ab" * 32, "licence": "Apache-2.0",
                    "description": "The outbreak of the respiratory disease COVID-19.", "source": "Written for ember-hub."},
        "methods": [ember, rmu] if with_ember else [rmu],
        "ember": {"rows": 940, "strength": 4.0, "clip": 3.0, "features": 8, "variant": "plus", "seeds": 1, "tokens": moved,
                  "coverage": {"keywords": 0.4103, "question_words": 0.5217},
                  "verdict": "EMBER reaches about half of what the concept is talked about with."} if with_ember else None,
        "known": {part: {"known": n, "asked": 60} for part, n in KNOWN.items()},
        "scores": _scores(attacks), "efficacy": 0.9123, "specificity": 0.9345, "coherence": 0.9567, "harmonic": 0.9341,
        "recovered": 0.4737 if attacks else None, "recovered_interval": [0.2213, 0.7318] if attacks else None,
        "regained": {arm: dict(zip(attacks, (0.0476, 0.2619), strict=False)) for arm in ARMS} if attacks else {},
        "curves": _curves(attacks), "warnings": [], "seconds": {"factorize": 12.3, "relearn": 211.4},
        "gates": [{"name": "recovered", "limit": 0.5, "value": 0.4737, "passed": True}] if attacks else [],
        "environment": {"python": "3.11.7", "torch": "2.9.1", "transformers": "5.23.0", "ember_hub": "0.1.0",
                        "platform": "Linux x86_64"},
        "out": {"model": {"bytes": 269060552, "files": 11, "reload": "bit-equal"},
                "patch": {"bytes": 1083392, "reload": "bit-equal", "carries": "EMBER only" if with_ember else "everything"}},
    }


def at_chance() -> dict[str, Any]:
    """The base knows nothing of the concept, so nothing can be shown."""
    report = example_report() | dict.fromkeys((
        "efficacy", "specificity", "harmonic", "intervals", "recovered", "recovered_interval"))
    for row in report["scores"]:
        if row["name"] in ("concept_all", "general_all") and row["stage"] == "base":
            row["value"] = 0.25
    return report


def everywhere(value: Any, text: str) -> Any:
    """The same report with every free text replaced."""
    if isinstance(value, dict):
        free = {"title", "description", "text", "verdict", "source", "licence_name", "reference", "platform", "command"}
        return {key: text if key in free else everywhere(item, text) for key, item in value.items()}
    return [everywhere(item, text) for item in value] if isinstance(value, list) else value


def metadata(card: str) -> dict[str, Any]:
    return ModelCard(card).data.to_dict()


def body(card: str) -> str:
    return ModelCard(card).text


def blocks(card: str) -> list[str]:
    return [token.type for token in MARKDOWN.parse(body(card))]


def pieces(card: str) -> list[Any]:
    return [child for token in MARKDOWN.parse(body(card)) for child in token.children or ()]


def numbers_of(value: Any) -> set[str]:
    """Every number of the report, in the ways the card may round it."""
    if isinstance(value, dict):
        return set().union(*(numbers_of(item) for pair in value.items() for item in pair), set())
    if isinstance(value, list):
        return set().union(*map(numbers_of, value), set())
    if isinstance(value, str):
        return set(NUMBER.findall(value))
    return {f"{value:.2f}", f"{value:.3f}", f"{value:g}", f"{value:,}"} if isinstance(value, int | float) else set()


EVERY_REPORT = [example_report(), example_report(with_ember=False), example_report(attacks=()), at_chance(),
                example_report(tokens=3)]


@pytest.mark.parametrize("form", ["model", "patch"])
@pytest.mark.parametrize("report", EVERY_REPORT)
def test_every_number_in_the_tables_stands_in_the_report(report, form):
    known = numbers_of(report)
    rows = [line for line in body(render(report, form)).splitlines() if line.startswith("|")]

    printed = {number for row in rows for number in NUMBER.findall(re.sub(r"https\S+|<[^>]+>|&nbsp;", " ", row))}
    assert printed - known == set()
    assert len(printed) > 20


@pytest.mark.parametrize("form", ["model", "patch"])
@pytest.mark.parametrize("report", EVERY_REPORT)
def test_a_card_is_valid_and_its_metadata_survives_the_hubs_own_reader(report, form):
    card = render(report, form, base_card="---\nlanguage: [en, de]\nlicense: mit\n---\n", target_repo="me/erased")
    validate(card)
    data = metadata(card)

    assert ModelCard(str(ModelCard(card))).data.to_dict() == data
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data["base_model_relation"], data["library_name"]) == {
        "model": ("finetune", "transformers"), "patch": ("adapter", "peft")}[form]
    assert (data["license"], data["language"], data["pipeline_tag"]) == ("apache-2.0", ["en", "de"], "text-generation")
    assert {"ember-hub", "unlearning", "concept-erasure", "covid-19-pandemic"} <= set(data["tags"])
    assert ("ember" in data["tags"]) == (report["ember"] is not None)
    values = {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results
              if result.dataset_config == "concept"}
    carries_less = form == "patch" and report["ember"] is not None
    assert values["Accuracy, known questions, after"] == (0.5238 if carries_less else 0.3095)


@pytest.mark.parametrize("form", ["model", "patch"])
def test_names_and_tokens_from_outside_change_nothing_but_the_words(form):
    plain, nasty = render(example_report(), form), render(everywhere(example_report(), NASTY), form)
    validate(nasty)

    assert metadata(nasty).keys() == metadata(plain).keys()
    assert blocks(nasty) == blocks(plain)
    tags = {piece.content.strip("</>") for piece in pieces(nasty) if piece.type == "html_inline"}
    assert tags <= {"code", "br", "sub"}
    links = {piece.attrs["href"] for piece in pieces(nasty) if piece.type == "link_open"}
    assert all(link.startswith("https://huggingface.co/") for link in links)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]|/etc/passwd|~/secret", nasty)


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.sampled_from(["{}", "x {}", "{} y"]))
def test_whatever_is_escaped_reads_as_plain_text_in_one_table_cell(text, around):
    tokens = MARKDOWN.parse(f"| a |\n| :-- |\n| . {around.format(escape(text))} |\n\n- {escape(text)}\n")

    cells = [token for token in tokens if token.type == "inline"]
    assert sum(token.type == "td_open" for token in tokens) == 1
    assert {child.type for cell in cells for child in cell.children} <= {"text", "text_special"}
    assert [token.type for token in tokens if token.type.endswith("_open")][-2:] in (
        ["bullet_list_open", "list_item_open"], ["list_item_open", "paragraph_open"])


def test_a_base_at_chance_is_said_plainly_and_gives_no_verdict():
    card = render(at_chance(), "model")

    assert card.count("not measured: the base is at chance") == 4
    assert "| Efficacy | **–** |" in card
    assert "None" not in card


def test_where_no_attack_shows_more_than_is_there_anyway_the_card_says_that() -> None:
    report = example_report() | {"worst_attack": {"name": "none", "title": "no attack at all"}}
    card = render(report | {"gates": [{"name": "recovered", "limit": 0.47, "value": 0.4737, "passed": False}]}, "model")
    assert "this share is there without any attack, and no attack shows more" in card
    assert "recovered is 0.4737, the limit is 0.47." in card
    assert "no attack at all" not in card


def test_what_is_missing_for_another_reason_is_not_laid_to_the_base():
    bare = example_report() | dict.fromkeys(("efficacy", "specificity", "coherence", "harmonic", "intervals", "recovered",
                                             "recovered_interval"))
    for report, why in ((bare, "no attack that counts was run"), (bare | {"attacks": []}, "no attack was run")):
        card = render(report, "model")
        assert f"not measured: {why}" in card
        assert card.count("not measured: its questions were not asked") == 3
        assert "not measured: ordinary text was not read" in card
        assert "at chance" not in card


def test_a_patch_pushed_beside_a_model_whose_limit_was_not_met_says_so_and_warns_of_itself_only():
    report = example_report()
    report["gates"] = [{"name": "recovered", "limit": 0.35, "value": 0.4737, "passed": False}]
    report["scores"] = [s for s in report["scores"] if s["name"] != "valid_mass_concept"]
    report["scores"] += [score("valid_mass_concept", stage, value, 50, "mass")
                         for stage, value in (("base", 0.9), ("edited", 0.1), ("control:ember-only", 0.88))]
    report["warnings"] = [answering(0.9, 0.1), "another one"]
    model, patch = (render(report, form) for form in ("model", "patch"))
    assert "**Outside the limit set for this run:** recovered is 0.47" in model
    assert "**Outside the limit set for this run, with the other methods:** recovered is 0.47" in patch
    assert "the edited model puts 0.10 of its probability" in model
    assert "of its probability" not in patch
    assert "another one" in patch


def test_a_failed_limit_stands_in_the_first_line_with_the_attack_that_did_it():
    report = example_report()
    report["gates"][0] |= {"limit": 0.35, "passed": False}

    lines = body(render(report, "model")).strip().splitlines()
    assert lines[0] == ("# SmolLM2-135M-Instruct with “COVID-19 pandemic” erased "
                        "– but an attack (relearn strong) recovers 0.47 of it")
    assert "> - **Outside the limit set for this run:** recovered is 0.4737, the limit is 0.35." in lines


def test_a_patch_says_what_is_not_in_it():
    patch_only = example_report()
    patch_only["out"]["model"] = None

    card = render(patch_only, "patch")
    assert "**RMU (representation misdirection) is not in it.**" in card
    assert "those of the embedding edit alone" in card
    assert "A patch can be switched off" in card
    assert 'from_pretrained("your-name/SmolLM2-135M-Instruct-ember-covid-19-pandemic-patch")' in card
    assert "is not in it" not in render(example_report(with_ember=False), "patch")


def test_only_what_was_done_is_told():
    with_all, without = render(example_report(), "model"), render(example_report(with_ember=False, attacks=()), "model")

    assert "880 more are in `ember/report.json`" in with_all
    assert figures(example_report(), "model") == ("attacks", "relearning")
    assert all(f"](ember/{name}.png)" in with_all for name in ("attacks", "relearning"))
    assert "Only these attacks were tried:** relearn paper, relearn strong." in with_all
    for absent in ("Edited tokens", "Copying the base's rows back", "relearning.png", "Only these attacks"):
        assert absent in with_all
        assert absent not in without
    assert "not measured: no attack was run" in without


def test_a_local_base_is_named_without_its_path_and_claimed_as_nobodys_repository():
    report = example_report()
    report["command"] = "ember-hub erase /home/ann/models/mine --concept=covid --output ~/runs --config '/tmp/my set.toml'"
    report["model"] |= {"repo_id": None, "name": "mine", "source_kind": "folder"}
    report["warnings"] = [f"the cache at {Path.home()}/.cache/huggingface is almost full"]
    card = render(report, "model")
    validate(card)

    assert "ember-hub erase path/to/mine --concept=covid --output path/to/runs" in card
    assert "base_model" not in metadata(card)
    assert str(Path.home()) not in card
    assert "path/to/huggingface is almost full" in card


def unmeasured() -> dict[str, Any]:
    """A patch that was made from rows alone."""
    nothing = dict.fromkeys(("efficacy", "specificity", "coherence", "harmonic", "intervals", "recovered", "recovered_interval",
                             "ember_alone"))
    report = example_report(attacks=()) | nothing | {
        "battery": "none", "scores": [], "gates": [], "warnings": ["the strength 5 is a fixed one"],
        "known": {part: {"known": 0, "asked": 60} for part in KNOWN}}
    return report | {"methods": report["methods"][:1], "out": {"model": None, "patch": report["out"]["patch"] | {
        "carries": "everything"}}}


def test_a_patch_that_nobody_asked_a_question_says_so_first_and_shows_no_verdict() -> None:
    card = render(unmeasured(), "patch", target_repo="me/erased-patch")
    validate(card)
    lines = body(card).strip().splitlines()
    assert lines[0].endswith("(patch) – not measured")
    assert "Nothing about the answers of this patch was measured." in card
    assert "ember-hub verify me/erased-patch --base HuggingFaceTB/SmolLM2-135M-Instruct --concept covid-19-pandemic" in lines
    for absent in ("Efficacy", "## Results", "brought back?", "The test is small", "–<br>"):
        assert absent not in card
    assert "the strength 5 is a fixed one" in card
    assert "## Edited tokens" in card


def test_the_base_may_write_of_paths_that_are_here_too() -> None:
    """Its card tells how to run a container as the user whose folder this one happens to be."""
    card = render(example_report(), "model", base_card=f"# Base\n\nrun -v ~/.cache/huggingface:{Path.home()}/.cache/huggingface\n")
    assert f"{Path.home()}/.cache" in card
    validate(card)


BASE_CARD = """---
license: apache-2.0
model-index: [{name: theirs}]
---
# Their model

<script>alert(1)</script>
![logo](./figures/logo.png) and [paper](docs/paper.md "a") and [up](#usage) and [site](https://example.org/x)
<img src="cat.png"> <details><summary>more</summary>

Title
=====
```python
# not a heading
path = "/usr/share/theirs"
"""


def test_the_bases_own_card_is_kept_below_where_its_licence_lets_us() -> None:
    card = render(example_report(), "model", base_card=BASE_CARD)
    validate(card)
    ours, _, theirs = card.partition("## The base's own card")
    at = f"https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/{{}}/{'12fd25f7' * 5}"
    assert "### Their model" in theirs
    assert f"![logo]({at.format('resolve')}/figures/logo.png)" in theirs
    assert f'[paper]({at.format("blob")}/docs/paper.md "a")' in theirs
    assert "(https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct#usage)" in theirs
    assert "(https://example.org/x)" in theirs
    assert f'src="{at.format("resolve")}/cat.png"' in theirs
    assert "# not a heading" in theirs
    assert "script" not in theirs
    assert "=====" not in theirs
    assert theirs.count("<details>") == theirs.count("</details>") == 1, "the base's words cannot leave their section"
    assert theirs.count("```") == 2
    assert "theirs" not in ours
    assert "Made by ember-hub" in theirs.splitlines()[-1]


@pytest.mark.parametrize("licence", ["llama3.1", "gemma", "other", "unknown", "cc-by-nc-4.0"])
def test_under_other_licences_the_bases_card_is_linked_to(licence: str) -> None:
    report = example_report()
    report["model"]["licence"]["id"] = licence
    card = render(report, "model", base_card=BASE_CARD)
    assert "Their model" not in card
    assert "The base's own card: [HuggingFaceTB/SmolLM2-135M-Instruct](https://huggingface.co/" in card


def test_a_method_is_cited_and_no_author_is_made_up() -> None:
    report = example_report()
    report["methods"].append({"name": "new", "title": "New", "reference": "Somebody, arXiv 2501.00001", "settings": {}})
    card = render(report, "model")
    assert "author  = {Suslik, Clara Haya and Shafran, Or and Geva, Mor}" in card
    assert "The WMDP Benchmark" in card
    assert "@misc{arxiv250100001,\n  eprint        = {2501.00001}" in card


@pytest.mark.parametrize(("licence", "stated", "sentence"), [
    ({"id": "unknown"}, {"license": "other", "license_name": "unknown"}, "The base states no licence"),
    ({"id": "llama3.1", "files": ["LICENSE", "USE_POLICY.md"]}, {"license": "llama3.1"}, "<code>USE_POLICY.md</code>"),
    ({"id": "other", "name": "my-terms", "link": "https://example.org/terms"},
     {"license": "other", "license_name": "my-terms", "license_link": "https://example.org/terms"},
     "my-terms ([text](https://example.org/terms))"),
    ({"id": "apache-2.0, mit"}, {"license": "other", "license_name": "apache-2.0, mit"}, "apache-2.0, mit"),
])
def test_the_licence_is_the_bases_and_never_an_open_one_by_default(licence, stated, sentence):
    report = example_report()
    report["model"]["licence"] = {"name": None, "link": None, "files": [], **licence}

    card = render(report, "model")
    assert {key: value for key, value in metadata(card).items() if key.startswith("license")} == stated
    assert sentence in card


@pytest.mark.parametrize(("broken", "message"), [
    ("# no metadata", "has no license"),
    ("---\nlicense: [mit\n---\n", "has no license"),
    ("---\nlicense: mit\ntags: [a]\n---\n", "has no library_name, pipeline_tag"),
    ("{}see `/opt/run`", "line 11 of the card holds a path"), ("{}in ~/runs", "holds a path"),
    (r"{}in C:\Users\ann", "holds a path"), ("{}file:///opt/x", "holds a path"),
    (f"{{}}--cache={Path.home()}/y", "holds a path"),
])
def test_a_card_that_must_not_be_published_is_refused(broken, message):
    good = "---\nlicense: mit\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- a\n---\n# A\n\n<br> 1/2 https://x.y/z\n"
    validate(good)

    with pytest.raises(PublishError, match=re.escape(message)) as caught:
        validate(broken.replace("{}", good))
    assert "ember-hub card RUN" in caught.value.hint


def test_a_patch_that_carries_one_step_claims_what_that_step_alone_was_measured_to_do() -> None:
    report = example_report() | {"ember_alone": {"efficacy": 0.11, "specificity": 0.97, "coherence": 0.99, "harmonic": 0.3},
                                 "ember_alone_intervals": {"efficacy": [0.0, 0.33], "specificity": [0.9, 1.0],
                                                           "coherence": [0.98, 1.0], "harmonic": [0.0, 0.6]}}
    alone = next(s for s in report["scores"] if (s["name"], s["stage"]) == ("concept_known", "control:ember-only"))
    card, whole = render(report, "patch"), render(report, "model")
    row = next(line for line in card.splitlines() if line.startswith("| Concept, questions it knew |"))
    assert f"{alone['value']:.2f}" in row
    assert "**0.11**<br><sub>[0.00,&nbsp;0.33]</sub>" in card
    assert "rmu" in metadata(whole)["tags"]
    assert "rmu" not in metadata(card)["tags"]
    assert f"**{report['efficacy']:.2f}**" in whole
    assert f"**{report['efficacy']:.2f}**" not in card
    assert "relearning" not in row
    assert "no attack was run" in card
