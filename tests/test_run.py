"""The run folder: what is done stays done, what is half done never counts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ember_hub.errors import DiskError, RunBusy, RunNotFound
from ember_hub.run import Run, digest, read_report


def counting(run: Run, calls: list[str], name: str, text: str = "x") -> None:
    run.stage(name, ("first",) if name != "first" else (), (f"{name}.txt",),
              lambda: (calls.append(name), run.write(f"{name}.txt", text)))


def test_a_stage_is_done_once_and_again_only_if_its_file_or_its_input_changed(tmp_path: Path) -> None:
    calls: list[str] = []
    with Run.open(tmp_path / "run", {"a": 1}) as run:
        for _ in range(2):
            counting(run, calls, "first")
            counting(run, calls, "second")
        assert calls == ["first", "second"]
        (run.folder / "second.txt").write_text("tampered")
        counting(run, calls, "second")
        assert calls == ["first", "second", "second"]
        (run.folder / "first.txt").unlink()
        counting(run, calls, "first", "other")
        counting(run, calls, "second")
        assert calls == ["first", "second", "second", "first", "second"]
        assert set(run.seconds()) == {"first", "second"}


def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from ember_hub.run import Run
        with Run.open(Path({str(folder)!r}), {{}}) as run:
            def work():
                with run.writing("out.txt") as partial:
                    partial.write_text("half")
                    os.kill(os.getpid(), signal.SIGKILL)
            run.stage("only", (), ("out.txt",), work)
    """)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert not (folder / "out.txt").exists()
    with Run.open(folder, {}) as run:
        assert not list(folder.rglob("*.partial-*")), "what was half written is swept away"
        assert not run.is_done("only")


def test_an_exception_leaves_no_file_behind(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", {}) as run:
        def work() -> None:
            with run.writing("a.txt") as partial:
                partial.write_text("half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        assert not list(run.folder.glob("*a.txt*"))


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", {}):
        script = ("from pathlib import Path\nfrom ember_hub.run import Run\n"
                  f"with Run.open(Path({str(tmp_path / 'run')!r}), {{}}): pass")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "RunBusy" in done.stderr
        assert done.returncode == 1
    with pytest.raises(RunBusy) as caught, Run.open(tmp_path / "run", {}), Run.open(tmp_path / "run", {}):
        pass
    assert "--output" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError) as caught, Run.open(tmp_path / "file" / "run", {}):
        pass
    assert "--output" in caught.value.hint


def test_a_full_disk_is_a_disk_error_and_keeps_finished_stages(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", {}) as run:
        calls: list[str] = []
        counting(run, calls, "first")
        with pytest.raises(DiskError) as caught:
            run.stage("full", (), (), lambda: Path("/dev/full").write_text("x"))
        assert "finished stages are kept" in caught.value.hint
        assert run.is_done("first")
        assert not run.is_done("full")


def test_names_depend_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_a_folder_without_a_report_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound) as caught:
        read_report(tmp_path)
    assert "ember-hub erase" in caught.value.hint
