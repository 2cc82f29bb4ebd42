"""The programs of ``benchmarks/`` within a test: read as a module, or run in this process."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """The script as a module; it takes its own folder from the import path, so one is put there for it."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int | None:
    """Runs the script in this process as ``python benchmarks/<name>.py`` would; its exit code, None where it ended."""
    script = str(BENCHMARKS / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code
    return None
