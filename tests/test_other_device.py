"""On a device beside the CPU no tensor is left behind, and the numbers are the CPU's. No GPU is needed for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("other_device_cases.py")


@pytest.mark.parametrize("case", ["state_models", "modules", "training", "memory", "smax", "guarded"])
def test_all_of_it_works_on_a_device_beside_the_cpu(case, tmp_path):
    if case == "smax":
        pytest.importorskip("jaxmarl")
    command = [sys.executable, str(CASES), case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
