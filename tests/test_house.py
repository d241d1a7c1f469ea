"""The house keeps its order: who may import whom, what stays out of which room, and what every room must have."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ember_hub
from ember_hub import errors

PACKAGE = Path(ember_hub.__file__).parent
FLOORS = ("errors", "progress", "settings", "linalg", "source", "patches", "concepts", "features", "edits", "methods", "evaluation",
          "tuning", "run", "publish", "stages", "pipeline", "automation", "cli")
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))
OUTSIDERS = {"click": {"cli"}, "huggingface_hub": {"source", "publish", "automation"},
             "peft": {"evaluation", "publish"}, "optuna": {"tuning"}}


def floor(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module of a file, also those inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py" or p.parent != PACKAGE],
                         ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_its_own_floor_or_below(path: Path) -> None:
    own = FLOORS.index(floor(path))
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] == "ember_hub" and len(parts) > 1:
            assert FLOORS.index(parts[1]) <= own, f"line {line}: {floor(path)} imports {module}"


@pytest.mark.parametrize(("library", "rooms"), OUTSIDERS.items())
def test_a_library_stays_in_its_rooms(library: str, rooms: set[str]) -> None:
    users = {floor(path) for path in MODULES for module, _ in imports(path) if module.split(".")[0] == library}
    assert users <= rooms


def test_the_algebra_knows_torch_only() -> None:
    allowed = {"torch", "jaxtyping", "math", "ember_hub"} | set(sys.stdlib_module_names)
    users = {m for path in MODULES if floor(path) == "linalg" for m, _ in imports(path)}
    assert {m.split(".")[0] for m in users} <= allowed
    assert all(m.startswith("ember_hub.linalg") for m in users if m.startswith("ember_hub"))


def test_files_and_functions_stay_small() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path}: {node.name}"


def test_every_error_of_the_tree_is_drawn_and_every_raise_has_a_hint() -> None:
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.EmberHubError)]
    assert all(kind.__name__ in errors.__doc__ for kind in kinds)
    names = {kind.__name__ for kind in kinds}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name) \
                    and node.exc.func.id in names:
                assert any(k.arg == "hint" for k in node.exc.keywords), f"{path}:{node.lineno}"


def test_nothing_catches_everything_or_unpickles() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"except Exception|except:\s*$|import pickle|pickle\.load|sys\.path", text, re.MULTILINE), path


def test_help_needs_no_heavy_library() -> None:
    script = ("import sys; from ember_hub.cli.main import cli\n"
              "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
              "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
              "assert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "erase" in done.stdout


def test_every_public_name_is_there() -> None:
    assert all(hasattr(ember_hub, name) for name in ember_hub.__all__)
