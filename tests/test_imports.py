"""Imports run one way, from room to room; the state models and the policies need no environment; types come along."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "globediff_torchrl"
ROOMS = ("envs", "state_models", "policies")
# what each may import: itself and what stands to its left in CONTRIBUTING.md
BASE = ("keys", "errors", "files", "layout", "task", "tables", "starcraft", "random_streams")
MAY = {
    **{
        "keys": (),
        "errors": (),
        "starcraft": (),
        "random_streams": (),
        "files": ("errors",),
        "layout": ("errors",),
        "tables": ("files",),
    },
    "task": ("keys", "errors", "layout"),
    **{room: BASE for room in ROOMS},
    "evaluation": (*BASE, *ROOMS),
    "training": (*BASE, *ROOMS, "evaluation"),
    "studies": (*BASE, *ROOMS, "evaluation"),
    "doctor": ("starcraft", "envs"),
    "__init__": (*BASE, *ROOMS, "evaluation", "training"),
}


def imported(path: Path) -> Iterator[str]:
    """The rooms of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}."))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_file_stands_in_a_room_whose_imports_are_known():
    assert {room_of(path) for path in FILES} == set(MAY)


@pytest.mark.parametrize("room", MAY)
def test_a_room_imports_what_stands_to_its_left_alone(room):
    files = [path for path in FILES if room_of(path) == room]
    wrong = {
        f"{path.relative_to(ROOT)} imports {other}"
        for path in files
        for other in imported(path)
        if other not in (room, *MAY[room])
    }
    assert files and not wrong


@pytest.mark.parametrize("name", ["state_models.base", "state_models", "policies"])
def test_the_state_models_and_the_policies_load_no_simulator(name):
    """Without the package's own __init__, which loads everything."""
    code = (
        "import importlib, sys, types\n"
        "package = sys.modules['globediff_torchrl'] = types.ModuleType('globediff_torchrl')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        f"importlib.import_module('globediff_torchrl.{name}')\n"
        "rooms = ('vmas', 'jax', 'smacv2', 'globediff_torchrl.envs')\n"
        "print([name for name in sys.modules if name in rooms])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_programs_of_the_documentation_import_no_study():
    used = {room for path in (ROOT / "docs" / "examples").glob("*.py") for room in imported(path)}
    assert used and "studies" not in used


def test_the_package_says_that_it_is_typed_also_where_it_is_installed():
    assert resources.files(PACKAGE.name).joinpath("py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"][PACKAGE.name]
