"""The report for people: true to report.json, harmless whatever it has to print, and fit for a phone in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from ember_hub.errors import RunNotFound
from ember_hub.evaluation.figures import draw_figures
from ember_hub.publish.report.markdown import markdown
from ember_hub.publish.report.page import render_page
from ember_hub.publish.report.schema import as_current, report_schema
from tests.publish.browser import Browser, browser_command, open_browser
from tests.publish.example import example_report, example_samples

NASTY = "a|b `c` *d* <script>alert(1)</script> <img src=http://x/y>\n---\n# {{ 7 * 7 }} \u202ex\x00 [y](http://z) \"' /etc/passwd"
FREE = {"title", "description", "text", "verdict", "source", "reference", "command", "question", "answer", "expected", "prompt",
        "not_measured", "name"}
STANDALONE = {"meta", "img", "rect", "br"}
REAL = sorted((Path(__file__).parents[2] / "model_cards").glob("*/report.json"))


def everywhere(value: Any, text: str) -> Any:
    """The same with every free text replaced; names of attacks and scores stay, for they hold the report together."""
    if isinstance(value, dict):
        names = {"title", "settings"} <= value.keys() or "stage" in value
        return {key: text if key in FREE and isinstance(item, str) and not (key == "name" and names) else everywhere(item, text)
                for key, item in value.items()}
    if isinstance(value, list):
        return [text if isinstance(item, str) and text else everywhere(item, text) for item in value]
    return value


def page(report: dict[str, Any], samples: dict[str, list[dict[str, Any]]], figures: dict[str, Path] | None = None) -> str:
    return render_page(report, figures or {}, samples.get("before", ()), samples.get("after", ()),
                       open_before=samples.get("open-answers-base", ()), open_after=samples.get("open-answers-edited", ()))


class Reader(HTMLParser):
    """Tags with their attributes in order, and the words outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in STANDALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in STANDALONE:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole page of the example, as a file."""
    folder = tmp_path_factory.mktemp("report")
    report = example_report()
    (folder / "report.html").write_text(page(report, example_samples(), draw_figures(report, folder / "figures")), encoding="utf-8")
    return folder / "report.html"


def test_the_example_is_what_the_schema_says_and_more_may_be_in_it() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(report_schema())
    checker.check_schema(report_schema())

    audited = {"name": "org/edited", "repo_id": "org/edited", "commit": None, "kind": "adapter", "changed": 12, "rows": None}
    audit = example_report() | {"kind": "audit", "audited": audited, "ember": None, "ember_alone": None,
                                "ember_alone_intervals": None, "intervals": None, "out": {}}
    for report in (example_report(), audit, example_report() | {"surprise": [1]}):
        checker.validate(report)


def damages(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The value with one required key missing or one typed value of another type, everywhere the schema speaks of it."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for part in schema.get("allOf", ()):
        yield from damages(value, part, root, path)
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            yield f"{path}/{key} is gone", {k: v for k, v in value.items() if k != key}
        for key, item in value.items():
            below = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if below:
                yield f"{path}/{key} is of another type", value | {key: 7 if isinstance(item, list) else [object]}
                yield from ((where, value | {key: worse}) for where, worse in damages(item, below, root, f"{path}/{key}"))
    if isinstance(value, list) and value and "items" in schema:
        yield f"{path}[0] is of another type", [[object], *value[1:]]
        yield from ((where, [worse, *value[1:]]) for where, worse in damages(value[0], schema["items"], root, f"{path}[0]"))


def test_a_report_with_one_key_missing_or_one_value_of_another_type_is_refused_by_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = report_schema()
    checker = jsonschema.Draft202012Validator(schema)

    report = {key: value[:1] if isinstance(value, list) and len(value) > 2 else value for key, value in example_report().items()}

    assert checker.is_valid(report)
    tried = list(damages(report, schema, schema))
    assert [where for where, worse in tried if checker.is_valid(worse)] == []
    assert len(tried) > 200
    report["scores"][0]["value"] = 85.7
    assert not checker.is_valid(report), "a percentage"


@pytest.mark.parametrize(("report", "says"), [
    ({}, "schema None"), ([], "schema None"), ({"schema": 3}, "schema 3"), ({"schema": 2, "seed": 4}, "lacks version, kind")])
def test_what_cannot_be_read_is_refused_with_what_to_do(report: Any, says: str) -> None:
    with pytest.raises(RunNotFound, match=says) as caught:
        as_current(report)
    assert caught.value.hint


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_the_report_of_a_real_run_is_valid_and_says_what_was_measured(path: Path, tmp_path: Path) -> None:
    report = json.loads(path.read_text())
    figures = draw_figures(as_current(report), tmp_path)
    assert set(figures) >= {"attacks", "relearning", "tokens"}
    for told in (page(report, {}, figures), markdown(report)):
        assert f"{report['efficacy']:.2f}" in told
        assert report["worst_attack"]["title"] in told
        assert "None" not in told


def test_the_headline_is_the_worst_case_or_says_that_there_is_none() -> None:
    report = example_report()
    untried = report | {"worst_attack": None, "recovered": None, "recovered_interval": None, "attacks": [], "curves": []}
    unknown = report | dict.fromkeys(("efficacy", "specificity", "harmonic", "recovered", "worst_attack")) | {
        "scores": [row | {"value": 0.25} if (row["name"], row["stage"]) == ("concept_all", "base") else row
                   for row in report["scores"]]}
    claims = [markdown(r).splitlines()[2] for r in (report, untried, unknown)]

    assert claims[0].replace("\u00a0", " ") == ("**Worst case: “strong relearning: 3 epochs on every paragraph” brings back 1.00 "
                                                "(0.71 to 1.00) of what the base knew.**")
    assert "How easily the knowledge comes back is not known: no attack was run" in claims[1]
    assert "the base itself is not clearly above chance" in claims[2]
    for r, claim in zip((report, untried, unknown), claims, strict=True):
        assert claim.strip("*").replace("\u00a0", " ") in Reader(page(r, {})).text


def test_attacks_stand_in_the_order_of_what_they_bring_back_and_those_that_do_not_count_apart() -> None:
    report = example_report()
    counted, apart = markdown(report).split("Not counted in the worst case:")
    rows = [line for line in counted.splitlines() if re.match(r"\| .*relearning|\| .*4 bits", line)]

    assert [re.sub(r"[*]|<br>.*", "", row.split(" | ")[0])[2:].partition(":")[0] for row in rows[:5]] == [
        "Strong relearning", "Strong LoRA relearning of rank 64", "LoRA relearning of rank 16", "Paper relearning",
        "Weights rounded to 4 bits"]
    assert "hands the answers over: a model that never knew answers too" in apart
    assert "hands the answers over" not in counted
    assert "no: no model was named to ask with" in apart
    report["attacks"][0]["hands_over"] = True
    assert "Paper relearning" in markdown(report).split("Not counted in the worst case:")[1].split("## ")[0]


def test_answers_stand_side_by_side_in_the_order_of_the_pack() -> None:
    samples = example_samples()
    told = Reader(page(example_report(), samples)).text

    assert "virus that causes COVID-19? Right answer: SARS-CoV-2 before ✓ SARS-CoV-2 right after ✗ HIV-1 wrong" in told
    assert "before ✓ lockdown right after ◐ boycott / lockdown right 1 of 2 times" in told
    assert "before ✓ The capital of France is Paris. right after ✓ The capital of France is Paris. right" in told
    questions = [row["question"] for row in samples["before"] if row["part"] == "concept" and row["known"]]
    assert sorted(questions, key=told.index) == questions
    samples["after"] = samples["after"][1:]
    assert "before ✓ SARS-CoV-2 right after not asked" in Reader(page(example_report(), samples)).text


def test_only_what_there_is_has_a_place(written: Path) -> None:
    lists = ("attacks", "curves", "tokens", "methods", "evaluations", "gates", "warnings")
    bare = example_report() | {"layers": {}} | {key: [] for key in lists} | dict.fromkeys(
        ("ember", "worst_attack", "recovered", "recovered_interval"))
    whole, less = written.read_text(encoding="utf-8"), page(bare, {})

    for absent in ("Can it be brought back?", "side by side", "Inside the model", "Outside the limit", "<img", "EMBER reaches"):
        assert absent in whole
        assert absent not in less
        assert absent not in markdown(bare)
    assert "Before, after" in less
    assert re.findall(r"^## .*\n\n(?=## )", markdown(bare), re.MULTILINE) == []


def test_names_and_texts_from_outside_change_nothing_but_the_words() -> None:
    report, samples = example_report(), example_samples()
    plain, nasty = (Reader(page(everywhere(report, text), everywhere(samples, text))) for text in ("x", NASTY))

    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert nasty.open == plain.open == []
    assert nasty.attributes("href") == plain.attributes("href") == ["https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert "<script>alert(1)</script>" in nasty.text
    assert not re.search(r"[\x00\u202a-\u202e]|/etc/passwd", nasty.text)

    reading = MarkdownIt("commonmark").enable("table")
    blocks = [[token.type for token in reading.parse(markdown(everywhere(report, text)))] for text in ("x", NASTY)]
    assert blocks[0] == blocks[1]
    inline = [child for token in reading.parse(markdown(everywhere(report, NASTY))) for child in token.children or ()]
    assert {child.content.strip("</>") for child in inline if child.type == "html_inline"} <= {"br", "sub", "code"}
    assert all(child.attrs["href"].startswith("https://arxiv.org/abs/") for child in inline if child.type == "link_open")


def test_the_page_is_one_file_that_fetches_and_runs_nothing(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    reader = Reader(text)
    policy = next(attrs["content"] for _, attrs in reader.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*)</style>", text, re.DOTALL)[1]

    assert reader.open == []
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "base", "form"}
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on") or name in ("style", "srcset")]
    assert all(source.startswith("data:image/png;base64,") for source in reader.attributes("src"))
    assert all(link.startswith(("https://arxiv.org/abs/", "https://huggingface.co/")) for link in reader.attributes("href"))
    assert policy.startswith("default-src 'none'; ")
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert not re.search(r"url\(|@import", style)
    assert all(re.search(r"\d\.\d\d|\d+ edited tokens", alt) for alt in reader.attributes("alt"))
    assert len(reader.attributes("alt")) == 4


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    command = browser_command()
    if command is None:
        pytest.skip("no browser of the Chromium family on PATH, and EMBER_HUB_BROWSER names none")
    with open_browser(command, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


UNFOLD = "document.querySelectorAll('details').forEach(d => d.open = true)"
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') || e.matches('.scroll'))
    .filter(e => { const box = e.getBoundingClientRect(); return box.right > innerWidth + 1 || box.left < -1; })
    .map(e => e.outerHTML.slice(0, 80))"""
FAINT = """(() => {
    const linear = v => v > .04045 ? ((v + .055) / 1.055) ** 2.4 : v / 12.92;
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(v => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = e => {
        const colour = getComputedStyle(e).backgroundColor;
        return colour != 'rgba(0, 0, 0, 0)' || !e.parentElement ? colour : behind(e.parentElement);
    };
    const contrast = e => {
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
        return (a + .05) / (b + .05);
    };
    return [...document.querySelectorAll('body *')]
        .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()))
        .filter(e => contrast(e) < 4.5).map(e => e.outerHTML.slice(0, 80));
})()"""
"""Words with less contrast than WCAG 2.2 asks for at level AA."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_it_whole_and_legible_without_scrolling_sideways(browser: Browser, written: Path, width: int, scheme: str
                                                                        ) -> None:
    browser.show(written, width, scheme)
    browser.ask(UNFOLD)

    assert browser.ask("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.ask(TOO_WIDE) == []
    assert browser.ask(FAINT) == []
    assert all(size == 1080 for size in browser.ask("[...document.images].map(i => i.naturalWidth)"))
    assert min(browser.ask("[...document.images].map(i => i.clientWidth)")) > 330
    assert {url.partition(":")[0] for url in browser.requests()} == {"file", "data"}
    assert sum(url.startswith("file:") for url in browser.requests()) == 1
    assert browser.complaints() == []
    background = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", background)[0]) < 60) == (scheme == "dark")


def test_a_wide_table_scrolls_in_its_own_box_on_a_phone_and_fits_on_a_desk(browser: Browser, written: Path) -> None:
    hidden = {}
    for width in (360, 1200):
        browser.show(written, width, "light")
        browser.ask(UNFOLD)
        hidden[width] = browser.ask("[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)")

    assert max(hidden[360]) > 100
    assert max(hidden[1200]) == 0


def test_a_browser_finds_a_page_that_is_too_wide_or_breaks_the_policy(browser: Browser, written: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(written.read_text(encoding="utf-8").replace(
        "<main>", "<main><img src='https://example.org/a.png'><table><tr><td>wide" + "<td>wide" * 40), encoding="utf-8")
    browser.show(spoilt, 360, "light")

    assert browser.ask("document.documentElement.scrollWidth") > 360
    assert browser.ask(TOO_WIDE) != []
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())
