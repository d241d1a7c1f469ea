"""What `pip install` brings: the wheel holds every file that the code reads."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
                          cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> set[str]:
    """Names of the files in it."""
    return set(zipfile.ZipFile(wheel_file).namelist())


def test_every_file_of_the_package_is_in_the_wheel(wheel: set[str]) -> None:
    own = {str(p.relative_to(PROJECT)) for p in (PROJECT / "ember_hub").rglob("*")
           if p.is_file() and "__pycache__" not in p.parts}
    assert own - wheel == set()
    assert any(name.endswith("packs/covid-19-pandemic/pack.toml") for name in wheel)


def test_nothing_else_is_in_the_wheel(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"ember_hub"}


def test_the_program_starts_from_the_wheel_alone(wheel_file: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel_file).extractall(tmp_path)
    done = subprocess.run([sys.executable, "-m", "ember_hub.cli", "concepts", "list"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "covid-19-pandemic" in done.stdout


@pytest.mark.parametrize("group", ["ember_hub.methods", "ember_hub.evaluations", "ember_hub.attacks"])
def test_every_plug_in_is_announced_under_its_own_name(group: str) -> None:
    found = entry_points(group=group)
    assert found
    for entry in found:
        assert entry.load().name == entry.name
