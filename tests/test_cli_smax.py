"""``python benchmarks/smax.py`` without jax or jaxmarl; needs neither."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from benchmark_scripts import BENCHMARKS, ROOT, run

from globediff_torchrl.training import cli

FIX = "pip install -e '.[smax]'"


def one_line_of(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    return lines[0]


def test_without_jax_a_real_process_ends_at_once_with_code_2(tmp_path):
    """Nothing on the way to the message imports jax: with None in ``sys.modules`` Python takes it for not installed."""
    script = str(BENCHMARKS / "smax.py")
    code = (
        f"import runpy, sys; sys.modules.update(jax=None, jaxlib=None, jaxmarl=None); sys.argv[0] = {script!r}; "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "env.map=smacv2_5_units", f"output={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and not done.stdout, done.stdout + done.stderr
    line = one_line_of(done.stderr)
    assert "jax and jaxmarl, missing here" in line and FIX in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("missing", "named"),
    [(["jax"], "need jax,"), (["jaxmarl"], "need jaxmarl,"), (["jax", "jaxmarl"], "jax and jaxmarl,")],
)
def test_what_is_missing_is_named_with_the_fix(missing, named, monkeypatch, capsys, tmp_path):
    for package in ("jax", "jaxmarl"):
        # None: not installed; a module with a spec: installed, whatever is here
        monkeypatch.setitem(sys.modules, package, None if package in missing else sys.modules["json"])
    monkeypatch.setattr(cli, "trainer_from_config", lambda *args: pytest.fail("said before anything is built"))
    code = run(monkeypatch, "smax", "env.map=3m", "algorithm=mappo", f"output={tmp_path / 'run'}")
    said = capsys.readouterr()
    line = one_line_of(said.err)
    assert code == 2 and not said.out and named in line and FIX in line
    assert not list(tmp_path.iterdir())
