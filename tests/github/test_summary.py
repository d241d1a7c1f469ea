"""What GitHub shows: the numbers of the report, and no markup from names that others chose."""

from __future__ import annotations

from pathlib import Path

from markdown_it import MarkdownIt

from ember_hub.automation.github.runner import SUMMARY_LIMIT, Step
from ember_hub.automation.github.summary import of_decisions, of_erasure, of_failure, of_release
from tests.github.runner import assigned
from tests.publish.example import example_report

TRAP = '<script>alert(1)</script> | ![x](http://evil) `y` @someone "z"\n# heading ```'
RESULT = {"commit": "2" * 40, "efficacy": 0.5, "specificity": 0.9, "coherence": None, "recovered": 0.4, "passed": True}
DECISION = {"repo": "maker/base", "commit": "2" * 40, "concept": "covid", "decision": "erased", "reason": "",
            "target": "me/base-patch", "run": None, "report": None, "gate_failed": False,
            "result": RESULT, "before": {**RESULT, "commit": "1" * 40, "recovered": 0.3}}


def test_a_finished_erasure_shows_its_figure_its_tables_and_where_it_went() -> None:
    report = example_report()
    pushed = {"patch": {"repo": "me/it-patch", "url": "https://huggingface.co/me/it-patch", "commit": "c" * 40}}
    text = of_erasure(report, pushed, 0)
    assert f"patch: [me/it-patch](https://huggingface.co/me/it-patch) at `{'c' * 12}`" in text.replace("&#47;", "/")
    figure = text.split("```mermaid\n")[1].split("```")[0]
    assert figure.count('"') == 2 * (figure.count(", ") // 2 + 1 + 2)
    assert f"{next(s['value'] for s in report['scores'] if s['name'] == 'concept_known' and s['stage'] == 'edited'):.3f}" in figure
    assert "| Before | After |" in text


def test_a_base_and_a_concept_with_markup_in_their_names_stay_text() -> None:
    report = example_report()
    report["model"]["name"] = report["concept"]["title"] = TRAP
    for attack in report["attacks"]:
        attack["title"] = TRAP
    texts = (of_erasure(report, {}, 3), of_failure(f"Error: {TRAP}"), of_decisions([{**DECISION, "repo": TRAP, "reason": TRAP}]),
             of_release({**DECISION, "concept": TRAP, "reason": TRAP, "repo": TRAP, "target": TRAP, "commit": TRAP}))
    for text in texts:
        html = MarkdownIt("commonmark").enable("table").render(text)
        assert "<script" not in html
        assert 'src="http' not in html
        assert 'href="http://evil' not in html
        assert "@someone" not in text
        assert "<h1>" not in html


def test_a_release_is_compared_with_the_last_one() -> None:
    text = of_release(DECISION, "https://github.com/o/r/actions/runs/1")
    assert f"| | Before ({'1' * 12}) | Now ({'2' * 12}) | Change |" in text.replace("|  |", "| |")
    assert "| recovered | 0.30 | 0.40 | &#43;0.10 |" in text
    assert "| coherence | – | – | – |" in text


def test_a_value_cannot_end_itself_and_a_long_summary_is_cut(tmp_path: Path) -> None:
    step = Step({"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})
    step.output({"report": "a\nend\npassed=true\nEOF", "passed": False, "efficacy": None})
    assert assigned((tmp_path / "output").read_text()) == {"report": "a\nend\npassed=true\nEOF", "passed": "false", "efficacy": ""}
    step.summarize("é" * SUMMARY_LIMIT)
    assert SUMMARY_LIMIT - 4096 < (tmp_path / "summary").stat().st_size < SUMMARY_LIMIT
