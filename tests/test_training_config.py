"""Configurations: every file composes and trains, every bad value is refused by name before anything is built."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import traceback
from multiprocessing.synchronize import SemLock

import pytest
from omegaconf import OmegaConf
from tensordict import TensorDict
from tqdm import tqdm

from globediff_torchrl import UserError, make_trainer
from globediff_torchrl import keys as k
from globediff_torchrl.envs.vmas import StateVmasEnv
from globediff_torchrl.state_models import STATE_MODELS, GlobeDiff, OracleStateModel
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training import factory
from globediff_torchrl.training.algorithms import INPUTS, env_from_config, make_team
from globediff_torchrl.training.config import as_dict
from globediff_torchrl.training.resume import resumed
from globediff_torchrl.training.validation import CHECKS, WHOLE, validate

ALGORITHMS = configuration.choices("algorithm")
TABLE_4 = {"globediff_paper": 2e-4, "vae_paper": 1e-4, "regressor_paper": 3e-4}  # learning rates
BAD = {
    "total_frames": (0, -5),
    "threads": (0, 1.5, 9_999_999),
    "env.num_envs": (0, -1, 2.5),
    "training.epochs": (0, 1.5),
    "training.minibatches": (0, 1.5),
    "training.lr": (-1e-3, 0, ".nan", "fast", "null"),
    "training.critic_lr": (-1e-3,),
    "training.max_grad_norm": (0,),
    "training.clip_epsilon": (-0.1, "big"),
    "training.gamma": (1.01, -0.1),
    "training.lmbda": (1.5,),
    "training.final_lr": (2,),
    "training.entropy_coeff": (-0.01,),
    "training.update_input": ("maybe",),
    "evaluation.episodes": (0, 2.5),
    "evaluation.final_episodes": (0,),
    "evaluation.every_frames": (-1,),
    "pretrain.frames": (0,),
    "pretrain.steps": (-1,),
    "pretrain.batch_size": (0,),
    "pretrain.lr": (-1,),
    "pretrain.behaviour": ("expert", "Random"),
    "logger": ("csvv", "CSV", "null"),
    "training.actor.recurrent": ("lstm", "GRU", "null"),
    "state_model_update.every_episodes": (0,),
    "state_model_update.steps": (-2,),
    "state_model_update.max_steps": (0, 1.5, "all"),
    "state_model_update.buffer_size": (0,),
    "training.adam_eps": (0,),
    "training.critic_coeff": (-1,),
    "training.value_norm": ("maybe",),
    "training.clip_value": ("maybe", 0.2),
    "training.frames_per_batch": (-10, "all"),
    "training.actor.hidden_sizes": ("[0]", "wide"),
    "training.critic.hidden_sizes": ("[-3]",),
    "state_model_update.lr": (-1, "fast"),
    "seed": (-1, 1.5, "abc", "null"),
    "evaluation.seed": (-1,),
    "env.history": (-1, 1.5, "abc"),
    "env.max_steps": (0, -4, 1.5, "abc"),
    "env.hide": ("[]", 3),
    "env.continuous_actions": ("maybe",),
    "progress": ("maybe",),
    "device": ("gpu", "cuda:99"),
    "checkpoint.every_frames": (-1,),
    "checkpoint.keep_last": (0,),
    "env.kwargs": (5,),
}


def test_the_configuration_as_it_stands_is_valid():
    config = configuration.compose()
    validate(config)
    assert config.algorithm.name == "globediff" and config.env.scenario == "hunt"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_with_its_name_and_itself(name, value):
    config = configuration.compose(overrides=[f"{name}={value}"])
    shown = str(value)
    with pytest.raises(UserError) as caught:
        validate(config)
    assert name in str(caught.value) and shown in str(caught.value)


WHOLE_NUMBERS = [name for check in WHOLE for name in CHECKS[check]]


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_a_whole_number_may_be_written_as_a_float_and_is_an_integer_from_then_on(name):
    sizes = name.endswith("hidden_sizes")
    family = "smac" if name in ("env.retries", "env.restart_every") else "vmas"
    given = f"{name}=[3e2,6.4e1]" if sizes else f"{name}=3e2"
    config = configuration.compose(family, ["pretrain.frames=100", given])  # they fit into a buffer of 300
    validate(config)
    value = OmegaConf.select(config, name)
    assert value == ([300, 64] if sizes else 300)
    assert all(type(number) is int for number in (value if sizes else [value]))


def test_floats_in_place_of_whole_numbers_train_a_run_and_are_saved_as_integers(fast_trainer, tmp_path):
    """Each of these crashed where torch counts, some after the pretraining."""
    given = {
        **{"pretrain.frames": 160, "pretrain.steps": 4, "pretrain.batch_size": 32, "training.epochs": 2},
        **{"training.minibatches": 2, "state_model_update.steps": 1, "state_model_update.every_episodes": 5},
        **{"env.max_steps": 10, "env.history": 3, "env.num_envs": 8, "threads": 1, "checkpoint.keep_last": 2},
        **{"evaluation.final_episodes": 4, "seed": 3, "training.frames_per_batch": 80},
    }
    trainer = fast_trainer("globediff", *(f"{name}={value:.1e}" for name, value in given.items()), iterations=1)
    assert trainer.train()["complete"]
    saved = OmegaConf.load(tmp_path / "run" / "config.yaml")
    found = {name: OmegaConf.select(saved, name) for name in given}
    assert found == given and all(type(value) is int for value in found.values())


@pytest.mark.parametrize("name", ["state_model_update.max_steps", "state_model_update.steps", "training.lr"])
def test_a_refusal_names_the_default_that_the_configuration_has(name):
    default = OmegaConf.select(configuration.compose(), name)
    with pytest.raises(UserError, match=f"the default is {default}\\."):
        validate(configuration.compose(overrides=[f"{name}=-1"]))


@pytest.mark.parametrize("group", ["algorithm", "experiment", "training", "env"])
def test_an_unknown_file_of_a_group_lists_the_known_ones(group):
    own = {"experiment": configuration.experiments("vmas"), "env": ["vmas"]}  # of this family alone
    known = own.get(group, configuration.choices(group))
    with pytest.raises(UserError, match=f"Unknown {group} 'globdiff'.*Known: .*{known[0]}"):
        configuration.compose(overrides=[f"{group}=globdiff"])


@pytest.mark.parametrize("env", [StateVmasEnv, TensorDict({}, [])])
def test_an_environment_in_place_of_its_name_is_refused_with_what_to_do(env):
    kind = "the class StateVmasEnv" if isinstance(env, type) else "an object of TensorDict"
    with pytest.raises(UserError, match=rf"env must be a name.*got {kind}.*docs/own-loop.md"):
        make_trainer(env=env)


# ---------------------------------------------------------------------------------------------------------- algorithms
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_and_reads_what_its_file_says(name, fast_trainer, tmp_path):
    trainer = fast_trainer(name, iterations=1)
    results = trainer.train()
    file = configuration.load_algorithm(name)
    assert results["complete"] and results["algorithm"] == name == file.name
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == results
    assert (tmp_path / "run" / "learning_curve.png").exists()  # also of a run that says nothing
    read = set(trainer.team.actor.in_keys)
    inputs = {INPUTS[key] for key in file.inputs}
    inference = {k.INFERRED_STATE, k.INFERRED_MEAN, k.INFERRED_BLEND, k.HYPOTHESES}
    assert inputs <= read and read - inputs <= inference
    assert bool(read & inference) == (trainer.team.state_model is not None) == (file.state_model is not None)
    assert ("state" in trainer.team.policy.in_keys) == (name == "oracle")
    assert trainer.team.critic.in_keys == ["state"]


@pytest.mark.parametrize("family", ["vmas", "smax", "smac"])
def test_the_environments_of_another_family_are_trained_by_its_own_script(family):
    """Its settings would not fit: a script takes those of its own family."""
    assert configuration.compose(family, [f"env={family}"]).env.family.startswith(family)
    for other in {"vmas", "smax", "smac"} - {family}:
        with pytest.raises(UserError, match=f"env={other} is another family's.*python benchmarks/{other}.py runs it"):
            configuration.compose(family, [f"env={other}"])


@pytest.mark.parametrize("family", ["vmas", "smax", "smac"])
def test_every_experiment_composes_in_its_own_family_alone(family):
    own = [name for name in configuration.choices("experiment") if name.startswith(family)]
    assert own == configuration.experiments(family)
    for experiment in configuration.choices("experiment"):
        if experiment not in own:
            with pytest.raises(UserError, match=f"experiment={experiment} is another family's.*{', '.join(own)}"):
                configuration.compose(family, [f"experiment={experiment}"])
            continue
        config = configuration.compose(family, [f"experiment={experiment}"])
        validate(config)
        assert config.total_frames > 0 and config.experiment == experiment


@pytest.mark.parametrize("family", ["vmas", "smax"])
def test_the_paper_s_algorithms_alone_bring_the_fit_of_its_tables(family):
    files = (OmegaConf.load(configuration.config_dir() / f"{name}.yaml") for name in ("base", family))
    own = OmegaConf.merge(*files)
    for name in ALGORITHMS:
        config = configuration.compose(family, [f"algorithm={name}"])
        for section in ("pretrain", "state_model_update"):
            expected = (TABLE_4[name], 32) if name in TABLE_4 else (own[section].lr, own[section].batch_size)
            assert (config[section].lr, config[section].batch_size) == expected, name


def test_the_paper_s_baselines_leave_everything_else_as_it_is():
    """Sec. 5.2: VAE and MLP stand in GlobeDiff's place, and all else is unchanged."""

    def rest(algorithm):
        config = as_dict(configuration.compose("smac", ["experiment=smac_MMM2", f"algorithm={algorithm}"]))
        for section in ("pretrain", "state_model_update"):
            del config[section]["lr"]
        del config["output"], config["algorithm"]["name"], config["algorithm"]["state_model"]
        return config

    assert rest("vae_paper") == rest("regressor_paper") == rest("globediff_paper") != rest("vae")


@pytest.mark.parametrize(
    ("given", "width"),
    [
        ([], 128),
        (["preset=tuned"], 128),
        (["preset=tuned", "denoiser=mlp"], 128),
        (["preset=paper"], 32),
        (["denoiser=unet"], 32),
        (["preset=paper", "width=64"], 64),
        (["denoiser=unet", "width=64"], 64),
        (["preset=tuned", "width=null"], 256),
    ],
)
def test_the_light_environments_width_is_the_presets_that_were_measured_with_it_alone(given, width):
    overrides = ["env.num_envs=2", *(f"algorithm.state_model.{entry}" for entry in given)]
    config = configuration.compose(overrides=overrides)
    team = make_team(config, env_from_config(config))
    assert team.state_model.config["width"] == width


def test_the_width_is_saved_as_a_number_that_a_resume_keeps(fast_config, tmp_path):
    options = [entry for entry in fast_config("globediff") if "width" not in entry]
    given = ["algorithm.state_model.preset=paper", "pretrain.steps=0"]
    make_trainer(output=tmp_path / "paper", overrides=[*options, *given, "total_frames=80"])
    fast = make_trainer(output=tmp_path / "fast", overrides=[*options, "pretrain.steps=0", "total_frames=80"])
    fast.train()
    file = tmp_path / "fast" / "config.yaml"
    assert OmegaConf.load(file).algorithm.state_model.width == 128 and "script_width" not in file.read_text()
    assert OmegaConf.load(tmp_path / "paper" / "config.yaml").algorithm.state_model.width is None
    for entry, held in (("denoiser=unet", "denoiser"), ("width=64", "width")):
        with pytest.raises(UserError, match=f"has algorithm.state_model.{held} = "):
            make_trainer(resume=tmp_path / "fast", overrides=[f"algorithm.state_model.{entry}"])
    resumed = make_trainer(resume=tmp_path / "fast", total_frames=160, overrides=["algorithm.state_model.width=128"])
    assert resumed.train()["frames"] == 160 and resumed.team.state_model.config["width"] == 128


def test_a_replay_buffer_too_small_for_the_offline_pairs_is_refused_where_there_are_any():
    small = ["pretrain.frames=2000", "state_model_update.buffer_size=1999"]
    with pytest.raises(UserError, match=r"must hold the 2000 pairs.*got 1999"):
        validate(configuration.compose(overrides=small))
    validate(configuration.compose(overrides=[small[0], "state_model_update.buffer_size=2000"]))
    for without in ("pretrain.steps=0", "algorithm=mappo", "algorithm=oracle", "resume=runs/of_before"):
        validate(configuration.compose(overrides=[*small, without]))


class Clairvoyant(OracleStateModel):
    """A state model of a user's own that has no loss."""


def test_a_state_model_of_ones_own_without_a_loss_is_never_fitted(fast_trainer, tmp_path, monkeypatch):
    monkeypatch.setitem(STATE_MODELS, "clairvoyant", Clairvoyant)
    small = ["algorithm.state_model.name=clairvoyant", "pretrain.frames=2000", "state_model_update.buffer_size=1999"]
    trainer = fast_trainer("oracle", *small, iterations=1)  # for the offline pairs of a trained one it is too small
    trainer.train()
    assert trainer.pretraining is None and not (tmp_path / "run" / "dataset").exists()
    assert GlobeDiff.is_trained() and not Clairvoyant.is_trained()


@pytest.mark.parametrize(
    ("entry", "own"),
    [
        ("continuous_actions=false", "env.continuous_actions"),
        ("max_steps=20", "env.max_steps"),
        ("history=1", "env.history"),
        ("hide=null", "env.hide"),
        ("num_envs=2", "env.num_envs"),
        ("aux=joint", "env.aux"),
        ("scenario=relay", "env.scenario"),
        ("seed=3", "seed"),
        ("device=cpu", "device"),
    ],
)
def test_what_has_an_entry_of_its_own_is_refused_among_the_simulator_s_arguments(entry, own):
    says = f"env.kwargs is expected to hold.*got {entry.partition('=')[0]}: set {own}=.* in"
    with pytest.raises(UserError, match=says):
        validate(configuration.compose(overrides=[f"+env.kwargs.{entry}"]))
    with pytest.raises(UserError, match=says):
        configuration.compose(overrides=[f"env.kwargs.{entry}"])


def test_smax_s_sight_range_is_refused_among_the_simulator_s_arguments_and_vmas_s_is_not():
    with pytest.raises(UserError, match=r"got sight_range: set env\.sight_range="):
        validate(configuration.compose("smax", ["+env.kwargs.sight_range=3"]))
    validate(configuration.compose("vmas", ["+env.kwargs.sight_range=3"]))  # a scenario may have one


@pytest.mark.parametrize("given", ["seed", "device"])
def test_nobody_is_sent_to_the_simulator_s_arguments_with_what_they_do_not_take(given):
    with pytest.raises(UserError, match=f"Unknown entry 'env.{given}': did you mean '{given}'") as caught:
        configuration.compose(overrides=[f"+env.{given}=3"])
    assert "+env.kwargs" not in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "aux", "own"),
    [("mappo", "joint", "null"), ("mappo_history", "joint_history", "'history'"), ("mappo_joint", "null", "'joint'")],
)
def test_an_x_of_the_environment_that_the_algorithm_would_replace_is_refused(algorithm, aux, own):
    config = configuration.compose(overrides=[f"algorithm={algorithm}", f"env.aux={aux}"])
    with pytest.raises(UserError, match=f"has algorithm.aux = {own}.*set algorithm.aux={aux}\\."):
        validate(config)


@pytest.mark.parametrize("given", ["algorithm=globediff env.aux=joint", "algorithm=mappo_joint env.aux=joint"])
def test_an_x_of_the_environment_that_the_algorithm_takes_or_has_is_not_refused(given):
    validate(configuration.compose(overrides=given.split()))


@pytest.mark.parametrize("name", ["lr=1e-3", "a,b", "run (1)", "$", "${x}", "[1]", "{y: 2}", 'it\'s "it"', "# 5 %"])
def test_a_path_may_hold_any_sign(name, tmp_path, fast_config, monkeypatch):
    settings = {"algorithm": "regressor", "seed": 3, "overrides": fast_config("regressor")}
    settings["overrides"][2:4] = ["pretrain.behaviour=mappo", "pretrain.frames=80"]
    make_trainer(output=tmp_path / name, total_frames=80, **settings).train()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "policy.safetensors").is_file()
    assert OmegaConf.load(tmp_path / name / "config.yaml").output == str(tmp_path / name)
    resumed = make_trainer(resume=tmp_path / name, total_frames=160)
    assert resumed.config.resume == str(tmp_path / name) and resumed.train()["frames"] == 160
    assert make_trainer(resume=tmp_path / name).config.resume == str(tmp_path / name)


@pytest.mark.parametrize("name", ["3m", "protoss_5_vs_5"])
def test_a_resume_takes_the_entries_of_the_runs_own_family(name, tmp_path, monkeypatch):
    configuration.save(configuration.compose("smac", [f"env.map={name}"]), tmp_path / "config.yaml")
    monkeypatch.setattr(factory, "trainer_from_config", resumed)
    config = make_trainer(resume=tmp_path, overrides=["env.step_timeout=77"])
    assert (config.env.family, config.env.map, config.env.step_timeout) == (
        configuration.smac_family(name),
        name,
        77,
    )


@pytest.mark.parametrize("training", configuration.choices("training"))
def test_every_training_file_trains(training, fast_trainer):
    options = [f"training={training}", "training.epochs=1", "training.actor.hidden_sizes=[8]"]
    assert fast_trainer("mappo", *options, iterations=1).train()["complete"]


@pytest.mark.parametrize(
    ("reads", "view"),
    [
        ("sample", "absolute"),
        ("samples", "relative"),
        ("mean", "absolute"),
        ("mean_sample", "relative"),
        ("mean_spread", "relative"),
    ],
)
def test_every_reading_of_the_inference_trains(reads, view, fast_trainer):
    options = [f"algorithm.reads={reads}", f"algorithm.view={view}", "++algorithm.state_model.num_samples=3"]
    assert fast_trainer("globediff", *options, "evaluation.final_episodes=2", iterations=1).train()["complete"]


def test_no_part_of_a_run_holds_a_semaphore_that_a_kill_would_leave_behind(fast_trainer, monkeypatch):
    made = []
    monkeypatch.setattr(SemLock, "__init__", lambda self, *a, **k: made.append(traceback.format_stack(limit=12)))
    tqdm.set_lock(threading.RLock())  # as the command line does
    fast_trainer("globediff", iterations=1).train()
    assert not made, "".join(made[0])


def test_the_frames_are_rounded_up_to_whole_batches(fast_config, tmp_path):
    trainer = make_trainer(algorithm="mappo", total_frames=81, output=tmp_path, overrides=fast_config("mappo"))
    trainer.train()
    assert trainer.collected_frames == 160


def test_batches_of_another_length_than_an_episode(fast_trainer):
    trainer = fast_trainer("mappo", "training.frames_per_batch=30", iterations=2)  # 32: whole steps of 8 environments
    trainer.train()
    assert trainer.collected_frames == 160 and [row["frames"] for row in trainer.table.rows][:2] == [32.0, 64.0]


def test_the_saved_configuration_is_resolved_and_runs_again(fast_trainer, tmp_path):
    fast_trainer("mappo", iterations=1)
    saved = OmegaConf.load(tmp_path / "run" / "config.yaml")
    validate(saved)
    assert saved.env.num_envs == 8 and saved.algorithm.name == "mappo" and saved.output == str(tmp_path / "run")


def test_a_configuration_reads_as_it_was_written_whatever_the_locale(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom omegaconf import OmegaConf\n"
        "from globediff_torchrl.training.config import save\n"
        "save(OmegaConf.create({'output': 'runs/gr\\u00f6\\u00dfe'}), Path(sys.argv[1]))\n"
    )
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml")]
    done = subprocess.run(command, env={**os.environ, **ascii_alone}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert OmegaConf.load(tmp_path / "config.yaml").output == "runs/größe"


def test_no_text_file_of_the_package_depends_on_the_locale():
    calls = [
        (path.name, node)
        for path in sorted(configuration.PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".read_text", ".write_text", ".open"))
        if ast.unparse(node.func) != "os.open"  # a descriptor, of bytes
    ]
    text = [(name, node) for name, node in calls if not any("b" in ast.unparse(value) for value in node.args[:1])]
    assert len(text) > 15
    assert not [
        f"{name}:{node.lineno}" for name, node in text if "encoding" not in [word.arg for word in node.keywords]
    ]


def test_without_a_limit_on_a_task_that_never_ends_no_online_update_is_waited_for(fast_trainer, capsys):
    """It counts finished episodes, and none would ever come; a scenario that ends by itself needs no limit."""
    unlimited = ["env.max_steps=null", "training.frames_per_batch=80"]
    with pytest.raises(UserError, match=r"vmas/hunt ends no episode by itself.*got env\.max_steps=null"):
        fast_trainer("globediff", *unlimited)
    fast_trainer("globediff", *unlimited, env="vmas/balance")
    assert "ends no episode" not in capsys.readouterr().out
    for algorithm, more in (("globediff", ["state_model_update.steps=0"]), ("mappo", []), ("oracle", [])):
        fast_trainer(algorithm, *unlimited, *more)
        assert capsys.readouterr().out.count("no row will have a return") == 1


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(fast_trainer, progress, tmp_path):
    rows = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        fast_trainer("globediff", folder=folder, seed=seed).train()
        rows.append(progress(tmp_path / folder))
    assert rows[0] == rows[1] and rows[0][0]["return"] != rows[2][0]["return"]


def test_two_trainers_of_one_process_count_apart(fast_trainer):
    one, two = fast_trainer("mappo", folder="one"), fast_trainer("mappo", folder="two")
    one.train()
    assert one.collected_frames == 160 and two.collected_frames == 0
    two.train()
    assert one.collected_frames == two.collected_frames == 160
