"""What README.md prints is true: its scripts run, its command lines name what exists."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
from benchmark_scripts import run
from tensordict import TensorDict

import globediff_torchrl
from globediff_torchrl.envs import available_envs
from globediff_torchrl.envs.vmas import PRESETS
from globediff_torchrl.errors import UserError
from globediff_torchrl.policies.ego_view import READS
from globediff_torchrl.training import assembly
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.validation import validate

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# a training run of seconds: what the scripts of README leave to the configuration, at its smallest
SMALL = [
    "env.num_envs=8",
    "training.epochs=1",
    "pretrain.behaviour=random",
    "pretrain.frames=480",
    "pretrain.steps=5",
    "pretrain.batch_size=16",
    "state_model_update.batch_size=16",
    "state_model_update.steps=1",
    "evaluation.final_episodes=4",
    "evaluation.every_frames=0",
    "threads=1",
    "progress=false",
    "logger=none",
]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture
def small_training(monkeypatch):
    """``make_trainer`` with few frames, few environments and little pretraining; all else as in the script."""
    original = globediff_torchrl.make_trainer

    @functools.wraps(original)
    def make_trainer(**arguments):
        return original(**{**arguments, "total_frames": 480, "overrides": [*arguments.get("overrides", []), *SMALL]})

    monkeypatch.setattr(globediff_torchrl, "make_trainer", make_trainer)


def test_the_scripts_of_the_readme_run_as_printed(tmp_path, monkeypatch, small_training, capsys):
    monkeypatch.chdir(tmp_path)
    policy, own_data, training, trained = blocks(README, "python")

    names: dict = {}
    exec(compile(policy, "README, first script", "exec"), names)
    assert names["rollout"]["agents", "inferred_state"].shape == (32, 60, 2, 10)
    assert "torch.Size([32, 60, 2, 10])" in capsys.readouterr().out

    x, s = torch.randn(300, 3, 8), torch.randn(300, 16)
    names = {"data": TensorDict({("agents", "aux_observation"): x, "state": s}, [300])}
    assert "steps=3000" in own_data
    exec(compile(own_data.replace("steps=3000", "steps=30"), "README, second script", "exec"), names)
    assert names["samples"].shape == (100, 3, 16)
    assert (tmp_path / "my_model" / "model.safetensors").is_file()

    names = {}
    exec(compile(training, "README, third script", "exec"), names)
    assert names["trainer"].results["complete"]
    for name in ("config.yaml", "summary.json", "progress.csv", "policy.safetensors", "checkpoints", "dataset"):
        assert (tmp_path / "runs" / "first" / name).exists(), name

    capsys.readouterr()
    exec(compile(trained, "README, load_policy", "exec"), names)
    assert names["env"].batch_size == (32,) and math.isfinite(float(capsys.readouterr().out))


def command_lines() -> list[tuple[str, str]]:
    """``(page, command)`` for each line that starts with ``python benchmarks/``, comments left out."""
    found = []
    for page in PAGES:
        lines = [line for block in blocks(page.read_text(), "bash") for line in block.splitlines()]
        found += [(page.name, line) for line in lines if line.startswith("python benchmarks/")]
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_a_printed_command_names_what_exists(page, line, monkeypatch, capsys):
    _, script, *arguments = shlex.split(line, comments=True)
    assert (ROOT / script).is_file(), f"{page} names {script}"
    if script not in ("benchmarks/vmas.py", "benchmarks/smax.py", "benchmarks/smac.py"):
        flags = {argument for argument in arguments if argument.startswith("--") and argument != "--"}
        assert run(monkeypatch, Path(script).stem, "--help") == 0
        assert flags <= set(re.findall(r"--[\w-]+", capsys.readouterr().out)), f"{page}: {line}"
        return
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if "hydra/launcher=joblib" in overrides:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    if any(override.startswith("resume=") for override in overrides):
        return  # the rest is in the folder of the run
    ours = [override.partition("=") for override in overrides if not override.startswith("hydra")]
    assert len(ours) == len(overrides) or "-m" in arguments
    choices = [[f"{name}={choice}" for choice in re.split(r",(?![^[]*\])", value)] for name, _, value in ours]
    for combination in itertools.product(*choices):
        config = configuration.compose(Path(script).stem, combination)  # raises for what does not exist
        validate(config)
        assert f"{config.env.family}/{config.env.scenario}" in available_envs()


def test_every_entry_that_a_page_sets_in_passing_exists():
    names = r"(?:env|algorithm|training|pretrain|evaluation)\.[\w.]+|logger|device|threads|experiment|training"
    inline = rf"`(\+?(?:{names})=[\w\[\].]+)`"
    found = {entry for page in PAGES for entry in re.findall(inline, page.read_text())}
    assert len(found) > 10
    for entry in found:
        families, found = ["vmas", "smax", "smac"], False
        while not found:
            try:  # raises for an entry that is not there, or is where a + says no
                found = configuration.compose(families.pop(0), [entry]) is not None
            except UserError:
                if not families:
                    raise


@pytest.mark.parametrize(
    ("page", "listed"),
    [
        ("README.md", [*PRESETS, *configuration.choices("algorithm")]),
        ("docs/quickstart.md", [*configuration.choices("algorithm"), *configuration.choices("training")]),
        ("docs/quickstart.md", configuration.experiments("vmas")),
        ("docs/concepts.md", [*configuration.choices("algorithm"), *READS]),
        ("docs/environments.md", PRESETS),
    ],
)
def test_the_tables_of_a_page_list_every_choice(page, listed):
    text = (ROOT / page).read_text()
    for name in listed:
        assert re.search(rf"^\|.*`{name}`", text, re.MULTILINE), f"the tables of {page} do not list {name}"


def test_the_table_of_hooks_lists_what_is_registered():
    code = inspect.getsource(assembly._register_hooks)
    stages = re.findall(r'register_op\("batch_process", ([\w.]+)\)', code)
    hooks = re.findall(r"(\w+)\(.*\.register\(trainer\)", code)
    page = (ROOT / "docs" / "training.md").read_text()
    for name in [*hooks, *(stage for stage in stages if "." not in stage)]:
        name = {"_advantages": "Advantages", "_minibatches": "Minibatches"}.get(name, name)
        assert re.search(rf"^\|.*`{name}`", page, re.MULTILINE), f"docs/training.md does not list {name}"


def test_the_links_of_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
