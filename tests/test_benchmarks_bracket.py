"""The bracket: what it leaves of a run that has ended, and of one that has not."""

from __future__ import annotations

import json
import sys

import pytest
from benchmark_scripts import load


@pytest.mark.parametrize(("code", "complete", "kept"), [(0, True, False), (0, False, True), (1, True, True)])
def test_only_a_run_that_has_ended_well_gives_up_its_checkpoints(monkeypatch, tmp_path, code, complete, kept):
    bracket, output = load(monkeypatch, "bracket"), tmp_path / "run"
    (output / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (output / "policy.safetensors").touch()
    (output / "summary.json").write_text(json.dumps({"complete": complete}))
    bracket.run((output, [sys.executable, "-c", f"raise SystemExit({code})"]))
    assert (output / "checkpoints").exists() == kept
    assert (output / "policy.safetensors").exists()
