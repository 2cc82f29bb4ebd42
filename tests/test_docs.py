"""The documentation builds without warnings, its programs run, and its tables agree with the code."""

from __future__ import annotations

import importlib
import math
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zlib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from tensordict import TensorDict

from globediff_torchrl import GlobeDiff, fit, make_actor, make_trainer
from globediff_torchrl.envs import make_env
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.errors import UserError
from globediff_torchrl.layout import KINDS
from globediff_torchrl.policies import RunningNorm
from globediff_torchrl.state_models import STATE_MODELS
from globediff_torchrl.state_models.presets import PRESETS as MODEL_PRESETS
from globediff_torchrl.state_models.presets import by_steps
from globediff_torchrl.training import config as configuration

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def rows(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, backquotes taken off."""
    section = (DOCS / page).read_text().split(f"## {heading}\n", 1)[1]
    lines = re.search(r"(^\|.*\n)+", section, re.MULTILINE).group().splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation as html, and what its making said."""
    folder = tmp_path_factory.mktemp("docs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return folder / "html", done


def test_the_documentation_builds_without_warnings(site):
    html, done = site
    assert done.returncode == 0, done.stderr
    assert (html / "index.html").is_file()


def test_what_the_guides_tell_one_to_use_is_in_the_api_reference(site):
    inventory = zlib.decompress((site[0] / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    described = {line.split()[0].rpartition(".")[2] for line in inventory.splitlines()}
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("examples/*.py")))
    imported = re.findall(r"^from (globediff_torchrl[\w.]*) import ([\w, ]+)", pages, re.MULTILINE)
    used = {(module, name.strip()) for module, names in imported for name in names.split(",")}
    called = {name for module, name in used if callable(getattr(importlib.import_module(module), name))}
    in_prose = {"spread_over_error", "energy_score", "BatchValueNorm", "drop_crashed", "ChunkMinibatches"}
    assert "pairs_of" in called and called | in_prose <= described, (called | in_prose) - described
    assert "globediff_torchrl.GlobeDiff.save_pretrained" in inventory
    assert "globediff_torchrl.GlobeDiff.from_pretrained" in inventory


def snippet(page: str, begins: str) -> str:
    """The block of Python of a page in which a line begins so."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if re.search(rf"^{re.escape(begins)}", block, re.MULTILINE)]
    return found


def run_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The names that a program of docs/examples leaves behind; it runs in a folder of its own."""
    monkeypatch.chdir(folder)
    return runpy.run_path(str(DOCS / "examples" / f"{name}.py"))


def test_the_state_model_of_the_documentation_learns_and_trains_a_team(tmp_path, monkeypatch):
    try:
        names = run_example("state_model", tmp_path, monkeypatch)
    finally:
        STATE_MODELS.pop("linear", None)
    answer = names["model"](names["data"].clone().lock_())  # as memory-mapped data are
    assert ("agents", "inferred_state") in answer.keys(True)
    losses = names["history"]["loss_linear"]
    assert losses[-1] < 0.7 * losses[0]
    assert type(names["trainer"].team.state_model).__name__ == "LinearStateModel"
    assert names["results"]["complete"]


def test_the_scenario_of_the_documentation_becomes_an_environment(tmp_path, monkeypatch, capsys):
    try:
        names = run_example("scenario", tmp_path, monkeypatch)
        rollout = names["rollout"]
        with pytest.raises(UserError, match="vmas/meet does not know all of its arguments"):
            make_env("vmas/meet", num_envs=1, bax=1.0)
        assert make_env("vmas/meet", num_envs=64, box=9.0).reset()["state"].abs().max() > 1
        exec(snippet("extending.md", "def target_features"), names)
        names["Meet"].target_features = names["target_features"]
        step = make_env("vmas/meet", num_envs=3).reset()
        assert torch.equal(step["agents", "target_state"], step["state"][:, None, -2:].expand(3, 2, 2))  # the spot
    finally:
        PRESETS.pop("meet", None)
    assert "agent_0.spot.offset" in capsys.readouterr().out
    assert (rollout["agents", "observation"][:, :, 0, 4:] == 0).all()  # hidden from agent 0
    assert (rollout["agents", "observation"][:, :, 1, 4:] != 0).any()
    assert rollout["next", "truncated"][:, -1].all()


def test_the_guide_to_a_scenario_names_every_kind_of_feature():
    page = (DOCS / "extending.md").read_text()
    assert not [kind for kind in KINDS if f"`{kind}`" not in page]


def test_the_wrapped_environment_of_the_documentation_gets_the_keys(tmp_path, monkeypatch):
    names = run_example("wrapped_env", tmp_path, monkeypatch)
    assert names["rollout"]["agents", "inferred_state"].shape == (16, 20, 2, 3)
    assert names["env"].task.n_agents == 2


def test_the_hook_of_the_documentation_logs_a_column(tmp_path, monkeypatch):
    names = run_example("hook", tmp_path, monkeypatch)
    assert "action_size" in (tmp_path / "runs/hook/progress.csv").read_text().splitlines()[0].split(",")
    assert names["trainer"].table.rows[0]["action_size"] > 0
    first = names["trainer"]._modules["action_size"]
    resumed, hook = make_trainer(resume="runs/hook", total_frames=960), names["ActionSize"]()
    hook.register(resumed)
    assert hook.largest == first.largest == max(row["action_size"] for row in names["trainer"].table.rows)


def test_the_training_loop_of_the_documentation_trains_actor_critic_and_state_model(tmp_path, monkeypatch, capsys):
    names = run_example("own_loop", tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "3 of 3: return" in said and "evaluated: return" in said
    assert ("agents", "inferred_state") in names["actor"].in_keys and "state" not in names["policy"].in_keys
    assert len(names["returns"]) == 3 and all(math.isfinite(value) for value in names["returns"])
    steps = [group["step"] for group in names["optimizer"].state.values()]
    assert len(steps) == len(list(names["loss"].parameters())) and set(map(int, steps)) == {3 * 4 * 4}
    assert names["fitter"].steps == 200 + 3 * 10
    exec(snippet("own-loop.md", "actor = "), {**names, "make_actor": make_actor}, replaced := {})
    assert names["env"].rollout(2, replaced["policy"])["agents", "action_log_prob"].shape == (32, 2, 2)
    norm = next(layer for layer in names["critic"].modules() if isinstance(layer, RunningNorm))
    assert norm.count == names["pairs"].numel() + 3 * 32 * 60


def test_the_hypotheses_of_ones_own_data_are_scored_and_drawn_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    globediff, x = GlobeDiff(8, 16, preset="fast", width=16, num_samples=4), torch.randn(100, 2, 8)
    data = TensorDict({("agents", "aux_observation"): x, "state": torch.cat([x[:, 0], x[:, 1]], -1)}, [100])
    fit(globediff, data[:90], steps=2, batch_size=8, progress=False)
    names = {"globediff": globediff, "data": data}
    exec(snippet("state-models.md", "score = energy_score").replace("18_000", "90"), names)
    assert names["samples"].shape == (10, 2, 64, 16) and 0 < names["score"] < 10
    assert (tmp_path / "hypotheses.png").is_file()


def test_every_example_is_shown_in_a_page():
    pages = "".join((DOCS / page).read_text() for page in ("extending.md", "own-loop.md"))
    for example in (DOCS / "examples").glob("*.py"):
        assert f"literalinclude}} examples/{example.name}" in pages


@pytest.mark.parametrize(("column", "training"), [(1, "mappo"), (2, "mappo_reference")])
def test_the_table_of_mappo_details_has_the_values_of_the_configuration(column, training):
    config = configuration.compose("vmas", [f"training={training}"])
    described = {row[0]: row[column] for row in rows("training.md", "Every MAPPO detail")}
    for name, text in described.items():
        # YAML 1.1 reads 2e-3 as a word, OmegaConf as a number
        expected = OmegaConf.create(f"value: {text}").value
        assert OmegaConf.select(config.training, name) == expected, f"{training}: {name}"
    left_out = {"frames_per_batch", "update_input", "actor", "critic"}
    assert set(config.training) - left_out <= set(described)
    assert config.training.actor == config.training.critic


def test_the_table_of_model_presets_has_the_values_of_the_code():
    table = rows("state-models.md", "Presets")
    for name, *cells in table:
        for preset, cell in zip(("tuned", "fast", "paper"), cells):
            value = MODEL_PRESETS[preset][name]
            assert ("by K" if value is None else str(value)) == cell, f"{preset}: {name}"
    by_k = rows("state-models.md", "What follows from K")
    assert {name for name, *_ in by_k} == {name for name, value in MODEL_PRESETS["tuned"].items() if value is None}
    for name, *cells in by_k:
        assert [str(by_steps(steps)[name]) for steps in (1, 2, 3, 4, 5, 10)] == [cells[k] for k in (0, 0, 1, 1, 2, 2)]
    assert {row[0] for row in table} >= set(MODEL_PRESETS["tuned"])


def test_the_table_of_environments_has_the_sizes_of_the_presets():
    table = {row[0]: row[1:] for row in rows("environments.md", "Presets")}
    assert set(table) == set(PRESETS)
    for name, (*_, aux, agents, observed, x, state, steps) in table.items():
        task = make_env(f"vmas/{name}", num_envs=1, seed=None).task
        sizes = (task.n_agents, task.observation_layout.size, task.aux_dim, task.state_layout.size, task.max_steps)
        assert tuple(map(int, (agents, observed, x, state, steps))) == sizes, name
        assert aux.replace(" ", "_") == task.aux, name


def test_the_configuration_files_are_all_shown_or_named():
    pages = "".join(page.read_text() for page in DOCS.glob("*.md"))
    for group in ("algorithm", "experiment", "training", "env"):
        for name in configuration.choices(group):
            assert f"`{name}`" in pages, f"{group}={name} is in no page"


def test_the_oldest_python_is_one_that_every_pinned_package_takes_and_the_documentation_names_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = settings["project"]["requires-python"].removeprefix(">=")
    pages = "".join(path.read_text() for path in (ROOT / "README.md", *DOCS.glob("*.md")))
    assert set(re.findall(r"Python (3\.\d+) or newer", pages)) == {oldest}
    assert settings["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    extras = settings["project"]["optional-dependencies"]
    pins = [Requirement(text) for text in (*settings["project"]["dependencies"], *extras["smax"]) if "==" in text]
    needs = {pin.name: metadata.metadata(pin.name)["Requires-Python"] for pin in pins}
    assert not {name for name, need in needs.items() if need and f"{oldest}.0" not in SpecifierSet(need)}, needs
