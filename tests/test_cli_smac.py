"""``python benchmarks/smac.py`` without StarCraft II, and its configurations; needs nothing of StarCraft's.

The training itself is in test_smac_training.py.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_scripts import ROOT, run

from globediff_torchrl import UserError, make_trainer
from globediff_torchrl.envs.smac import install as smac_install
from globediff_torchrl.envs.smac.env import sees_each_enemy
from globediff_torchrl.state_models.presets import PRESETS
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.resume import resumed
from globediff_torchrl.training.validation import validate

SCRIPT = str(ROOT / "benchmarks" / "smac.py")
PAPER_MAPS = {  # the nine of the paper's Table 1: family, whether the reference's script of the map is recurrent
    "MMM2": ("smac", True),
    "3s5z_vs_3s6z": ("smac", True),
    "6h_vs_8z": ("smac", False),
    "zerg_5_vs_5": ("smacv2", True),
    "zerg_10_vs_10": ("smacv2", True),
    "zerg_10_vs_11": ("smacv2", True),
    "protoss_5_vs_5": ("smacv2", False),
    "terran_5_vs_5": ("smacv2", False),
    "terran_10_vs_11": ("smacv2", False),
}


def tells_how_to_go_on(said: str) -> bool:
    names = ("docs/smac.md", "globediff-doctor", "python benchmarks/smax.py", "python benchmarks/vmas.py")
    return all(name in said for name in names)


def says(monkeypatch, capsys, *arguments: str) -> tuple[int | None, str]:
    """Exit code and output of the program, run in this process; code None: it ended well."""
    code = run(monkeypatch, "smac", *arguments)
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return code, output.out + output.err


@pytest.fixture
def no_starcraft(monkeypatch, tmp_path):
    """Neither SC2PATH nor a StarCraftII in the home folder."""
    monkeypatch.delenv("SC2PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.fixture
def hides(monkeypatch):
    """``hides("smacv2")``: that package is not found; all others of StarCraft's are."""

    def hide(*names: str) -> None:
        real = importlib.util.find_spec
        spec = real("json")

        def find(name, package=None):
            if name in ("smacv2", "pysc2"):
                return None if name in names else spec
            return real(name, package)

        monkeypatch.setattr(smac_install.importlib.util, "find_spec", find)

    return hide


def installation(folder: Path, *maps: str) -> Path:
    """A folder that looks like StarCraft II from outside."""
    engine = folder / "Versions" / "Base75689" / "SC2_x64"
    engine.parent.mkdir(parents=True)
    engine.touch(mode=0o755)
    (folder / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for name in maps:
        (folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
    return folder


# ------------------------------------------------------------------------------------------------------ what is missing
def test_without_starcraft_a_real_process_ends_at_once_with_code_2(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SC2PATH": str(tmp_path / "none"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, SCRIPT, "env.map=3m", "algorithm=globediff", f"output={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert f"SC2PATH={tmp_path / 'none'}" in lines[0] and tells_how_to_go_on(lines[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["smacv2", "pysc2"])
def test_a_missing_package_is_named(package, hides, monkeypatch, capsys, tmp_path):
    hides(package)
    monkeypatch.setenv("SC2PATH", str(installation(tmp_path / "sc2", "3m")))
    code, said = says(monkeypatch, capsys, "env.map=3m")
    assert code == 2 and f"the python package {package}" in said and "no Versions" not in said
    assert tells_how_to_go_on(said)


def test_a_missing_engine_is_said_where_sc2path_is_not_set(hides, no_starcraft, monkeypatch, capsys):
    hides()
    code, said = says(monkeypatch, capsys, "env.map=zerg_5_vs_5", "algorithm=mappo")
    assert code == 2 and "SC2PATH is not set" in said and "python package" not in said
    assert tells_how_to_go_on(said)


@pytest.mark.parametrize(("name", "file"), [("MMM2", "MMM2"), ("zerg_7_vs_9", "32x32_flat")])
def test_a_missing_map_is_named_by_its_file(name, file, hides, monkeypatch, capsys, tmp_path):
    hides()
    monkeypatch.setenv("SC2PATH", str(installation(tmp_path / "sc2", "3m")))
    code, said = says(monkeypatch, capsys, f"env.map={name}")
    assert code == 2 and f"{file}.SC2Map" in said and tells_how_to_go_on(said)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("env.map=3mm", ("'3mm'", "did you mean '3m'", "zerg_5_vs_5")),
        ("env.map=smac/3m", ("'smac/3m'", "3m, ", "zerg_5_vs_5")),
        ("env.map=zerg_0_vs_5", ("'zerg_0_vs_5'", "zerg_10_vs_10")),
        ("experiment=smac_MMM3", ("'smac_MMM3'", "did you mean 'smac_MMM2'")),
        ("algorithm=globdiff", ("'globdiff'", "globediff_paper")),
    ],
)
def test_a_wrong_name_is_said_before_what_is_missing(argument, parts, no_starcraft, monkeypatch, capsys):
    code, said = says(monkeypatch, capsys, argument)
    assert code == 2 and all(part in said for part in parts) and "SC2PATH" not in said


def test_the_configuration_can_be_read_without_starcraft(no_starcraft, monkeypatch, capsys):
    code, said = says(monkeypatch, capsys, "--cfg", "job", "--resolve", "env.map=zerg_7_vs_9")
    assert not code and "family: smacv2" in said and "scenario: zerg_7_vs_9" in said


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("smac/3m", ("StarCraft II", "docs/smac.md")),
        ("smacv2/zerg_7_vs_9", ("StarCraft II", "docs/smac.md")),
        ("smacv2/3m", ("'smacv2/3m'", "smac/3m")),
        ("smac/zerg_5_vs_5", ("'smac/zerg_5_vs_5'", "smacv2/zerg_5_vs_5")),
    ],
)
def test_make_trainer_takes_the_names_of_both_families(name, parts, no_starcraft, tmp_path):
    with pytest.raises(UserError) as caught:
        make_trainer(env=name, algorithm="mappo", output=tmp_path / "run")
    assert all(part in str(caught.value) for part in parts)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- configurations
def smac(*overrides: str):
    config = configuration.compose("smac", overrides)
    validate(config)
    return config


@pytest.mark.parametrize(("name", "family"), [("3m", "smac"), ("zerg_5_vs_5", "smacv2"), ("terran_3_vs_40", "smacv2")])
def test_the_family_follows_from_the_map(name, family):
    config = smac(f"env.map={name}")
    assert (config.env.family, config.env.scenario, config.env.num_envs) == (family, name, 8)
    assert config.output.startswith(f"runs/{family}/{name}/")


@pytest.mark.parametrize("name", PAPER_MAPS)
def test_a_map_of_the_paper_has_the_values_of_tables_2_to_4(name):
    config = smac(f"experiment=smac_{name}")
    assert (config.env.family, config.env.map) == (PAPER_MAPS[name][0], name)
    training = config.training
    table2 = {
        **{"epochs": 15, "minibatches": 1, "lr": 5e-4, "critic_lr": 5e-4, "adam_eps": 1e-5, "max_grad_norm": 10},
        **{"entropy_coeff": 0.01, "gamma": 0.99, "lmbda": 0.95, "frames_per_batch": 8 * 400, "final_lr": 1},
    }
    assert {entry: training[entry] for entry in table2} == table2
    assert training.actor.activation == "relu" and training.actor.hidden_sizes[-1] == 64
    assert training.clip_epsilon == 0.2 and training.update_input is True
    model = config.algorithm.state_model
    assert (model.name, model.preset, config.algorithm.reads) == ("globediff", "paper", "sample")
    tables3and4 = {"diffusion_steps": 5, "blocks": 2, "latent_dim": 16, "latent_width": 1024, "latent_layers": 3}
    assert {entry: PRESETS["paper"][entry] for entry in tables3and4} == tables3and4
    for section in (config.pretrain, config.state_model_update):
        assert (section.lr, section.batch_size) == (2e-4, 32)
    assert config.state_model_update.every_episodes == 50 and config.env.history == 3


def test_another_state_model_keeps_its_own_fit_beside_the_settings_of_the_paper():
    config = smac("experiment=smac_MMM2", "algorithm=globediff")
    assert config.pretrain.lr == 2e-3 and config.state_model_update.lr == 1e-3
    assert config.pretrain.batch_size == config.state_model_update.batch_size == 256


@pytest.mark.parametrize("name", PAPER_MAPS)
def test_a_tuned_map_has_the_settings_of_the_reference_implementation(name):
    config = smac(f"experiment=smac_{name}_tuned")
    family, recurrent = PAPER_MAPS[name]
    assert (config.env.family, config.env.map) == (family, name)
    large = name == "MMM2"
    assert (config.training.epochs, config.training.minibatches) == (5, 2 if large else 1)
    assert config.training.actor.get("gain", 0.01) == (1.0 if large else 0.01)
    assert config.training.actor.recurrent == config.training.critic.recurrent == ("gru" if recurrent else "none")
    assert (config.training.lr, config.training.frames_per_batch) == (5e-4, 3200)


def test_what_is_given_on_the_line_goes_before_the_experiment():
    config = smac("experiment=smac_MMM2", "env.map=corridor", "algorithm=mappo", "training.epochs=3", "training=mappo")
    assert (config.env.map, config.algorithm.name, config.training.epochs) == ("corridor", "mappo", 3)
    assert config.algorithm.state_model is None and config.training.lr == 2e-3


@pytest.mark.parametrize("algorithm", configuration.choices("algorithm"))
def test_every_algorithm_composes_with_either_preset(algorithm):
    for experiment in ("smac_paper", "smac_tuned"):
        assert smac(f"experiment={experiment}", f"algorithm={algorithm}").algorithm.name == algorithm


@pytest.mark.parametrize(
    "entry",
    ["configuration=offical", "behaviour=mend", "time_limit=true", "sight_range=0", "sight_range=far", "retries=-1"]
    + ["step_timeout=0", "reset_timeout=null", "engine_timeout=-2", "restart_every=0", "fix_enemy_visibility=maybe"],
)
def test_a_bad_value_is_refused_with_its_name_and_itself(entry):
    name, _, value = entry.partition("=")
    with pytest.raises(UserError) as caught:
        smac(f"env.{entry}")
    assert f"env.{name}" in str(caught.value) and value.lower() in str(caught.value).lower()


def test_the_rows_of_enemies_follow_the_behaviour_unless_a_run_says_otherwise(tmp_path):
    assert smac().env.fix_enemy_visibility is None
    assert sees_each_enemy(None, "mended") and not sees_each_enemy(None, "upstream")
    assert sees_each_enemy(True, "upstream") and not sees_each_enemy(False, "mended")
    held = smac("env.map=zerg_5_vs_5", "env.fix_enemy_visibility=false")
    configuration.save(held, tmp_path / "config.yaml")
    config = configuration.compose("smac", ["env.map=zerg_5_vs_5"])
    config.resume = str(tmp_path)
    assert resumed(config, []).env.fix_enemy_visibility is False, "a run of before keeps what it was made with"


def test_a_resumed_run_may_wait_longer_for_its_engines_and_changes_nothing_else(tmp_path):
    """It may have ended because an engine did not answer in time."""
    held = smac("env.map=3m", "env.restart_every=7")
    configuration.save(held, tmp_path / "config.yaml")
    longer = ["env.step_timeout=200", "env.reset_timeout=300", "env.engine_timeout=250", "env.retries=9"]

    def resume(*overrides):
        config = configuration.compose("smac", overrides)
        config.resume = str(tmp_path)
        return resumed(config, overrides)

    env = resume(*longer, "env.restart_every=null").env
    asked = {"step_timeout": 200, "reset_timeout": 300, "engine_timeout": 250, "retries": 9, "restart_every": None}
    assert env == {**held.env, **asked}
    assert resume(longer[0]).env.restart_every == 7, "what is not named stays the run's own"
    with pytest.raises(UserError, match=r"has env\.history = 3, but 4 was asked for"):
        resume(*longer, "env.history=4")


def test_every_printed_command_names_what_exists():
    found = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in re.findall(r"^ *(python benchmarks/smac\.py .*)$", page.read_text(), re.MULTILINE):
            _, _, *arguments = shlex.split(line, comments=True)
            given = [argument.partition("=") for argument in arguments if not argument.startswith("-")]
            choices = [[f"{name}={choice}" for choice in re.split(r",(?![^[]*\])", value)] for name, _, value in given]
            for combination in itertools.product(*choices):
                smac(*combination)
            found += 1
    assert found >= 5
