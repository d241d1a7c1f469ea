"""`ember-hub report` as a user types it: what it writes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.publish.example import example_report, example_samples, write_run
from tests.toy_run import ember_hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "a run", example_report(), example_samples())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_page_and_markdown_are_written_beside_the_report_and_nothing_else_is_touched(run: Path) -> None:
    before = contents(run)
    done = ember_hub("report", str(run))
    after = contents(run)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"page     {run}/reports/report.html", f"markdown {run}/reports/report.md"]
    assert done.stderr == ""
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"reports/report.html", "reports/report.md", *(
        f"reports/figures/{name}.png" for name in ("attacks", "relearning", "layers", "tokens"))}
    assert b"What is the name of the virus that causes COVID-19?" in after["reports/report.html"]
    assert b"](figures/attacks.png)" in after["reports/report.md"]
    assert str(run).encode() not in after["reports/report.html"]

    assert ember_hub("report", str(run)).returncode == 0
    assert contents(run) == after


def test_markdown_is_printed_instead(tmp_path: Path) -> None:
    run = write_run(tmp_path / "printed", example_report(), {})
    before = contents(run)
    done = ember_hub("report", str(run), "--markdown")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Erasing “COVID-19 pandemic” from SmolLM2-135M-Instruct\n")
    assert "](figures/" not in done.stdout
    assert contents(run) == before


def test_the_page_is_opened_in_the_browser_that_the_environment_names(run: Path, tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{opened}"\n')
    browser.chmod(0o755)
    done = ember_hub("report", str(run), "--open", environment={"BROWSER": f"{browser} %s"})

    assert done.returncode == 0, done.stderr
    assert opened.read_text() == (run / "reports/report.html").as_uri()
    assert opened.read_text().endswith("a%20run/reports/report.html")


def refused(*words: str, code: int) -> str:
    done = ember_hub("report", *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: ")
    return error


def test_what_holds_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    assert "holds no finished run" in refused(str(tmp_path), code=1)
    assert list(tmp_path.iterdir()) == []
    assert "nowhere holds no finished run" in refused(str(tmp_path / "nowhere"), code=1)


@pytest.mark.parametrize(("file", "text", "says"), [
    ("reports/report.json", json.dumps(example_report() | {"schema": 9}), "schema 9"),
    ("reports/report.json", "[1]", "schema None"),
    ("samples/after.jsonl", '{"id": "q-00"', "after.jsonl holds a line that is no JSON object"),
    ("samples/after.jsonl", "[]", "after.jsonl holds a line that is no JSON object"),
    ("reports/report.json", json.dumps(example_report() | {"scores": None}), "damaged at $.scores"),
])
def test_a_run_that_cannot_be_read_is_refused_and_left_alone(run: Path, file: str, text: str, says: str) -> None:
    (run / file).write_text(text)
    before = contents(run)

    assert says in refused(str(run), code=1)
    assert contents(run) == before


def test_opening_and_printing_exclude_each_other(run: Path) -> None:
    assert "--open" in refused(str(run), "--open", "--markdown", code=2)
