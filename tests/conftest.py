"""The fixtures that several files share: runs of a second, small environments, and what may not be left over."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from process_watch import alive, wait_until
from sc2_standin import Knobs, install, read_log
from skirmish import Skirmish

from globediff_torchrl import make_env, make_trainer, wrap_env
from globediff_torchrl.envs.processes.children import children
from globediff_torchrl.envs.smac import SmacEnv
from globediff_torchrl.envs.smax.jax_setup import load_battles

ENVS, STEPS = 8, 10
FAST = [
    f"env.num_envs={ENVS}",
    f"env.max_steps={STEPS}",
    "pretrain.behaviour=random",
    "pretrain.frames=160",
    "pretrain.steps=4",
    "pretrain.batch_size=32",
    "state_model_update.every_episodes=5",
    "state_model_update.steps=1",
    "state_model_update.batch_size=32",
    "state_model_update.buffer_size=1000",
    "training.epochs=2",
    "training.minibatches=2",
    "training.actor.hidden_sizes=[16]",
    "training.critic.hidden_sizes=[16]",
    "evaluation.every_frames=0",
    "evaluation.episodes=4",
    "evaluation.final_episodes=4",
    "checkpoint.every_frames=100000",
    "progress=false",
    "logger=none",
    "threads=1",
]


@pytest.fixture(autouse=True)
def one_thread():
    """Torch's threads spin on a busy machine; a run sets its own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fast_config():
    """``fast_config(algorithm)`` -> overrides that make a whole run take about a second."""

    def overrides(algorithm: str = "globediff") -> list[str]:
        width = ["++algorithm.state_model.width=16"] if algorithm in ("globediff", "regressor") else []
        return [*FAST, *width]

    return overrides


@pytest.fixture
def fast_trainer(tmp_path, fast_config):
    """``fast_trainer(algorithm, *overrides, iterations=, folder=, env=, resume=)`` -> a trainer of a tiny run."""

    def make(algorithm="globediff", *overrides, iterations=2, folder="run", env="vmas/hunt", seed=0, resume=None):
        return make_trainer(
            env,
            algorithm,
            total_frames=iterations * ENVS * STEPS,
            seed=seed,
            output=tmp_path / folder,
            resume=resume,
            overrides=[*fast_config(algorithm), *overrides],
        )

    return make


@pytest.fixture
def no_home(monkeypatch):
    """A user of a bare number, as in a container: no HOME and no entry in passwd."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)


@pytest.fixture
def progress():
    """``progress(folder)`` -> the rows of progress.csv as dictionaries of strings, without the timings."""

    def read(folder: Path) -> list[dict[str, str]]:
        with (folder / "progress.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]

    return read


@pytest.fixture
def skirmish():
    """A small environment with discrete actions, an action mask, and an agent that dies."""
    return wrap_env(Skirmish(), no_op=0, max_steps=5, aux="history")


@pytest.fixture
def no_process_is_left():
    """Of those that the test has started, but for multiprocessing's own helper, which lives as long as this process."""
    before = set(children())

    def is_tracker(pid):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()

    yield
    assert wait_until(lambda: not [pid for pid in set(children()) - before if alive(pid) and not is_tracker(pid)])


@pytest.fixture(scope="session")
def jaxmarl_in_silence():
    """jaxmarl puts streams of its own into ``sys`` when it is imported; pytest's capture does not survive that."""
    load_battles()


@pytest.fixture(scope="session")
def sc2_installation(tmp_path_factory):
    return install(tmp_path_factory.mktemp("sc2"))


@pytest.fixture
def engine(sc2_installation, monkeypatch, tmp_path):
    """``engine(damage=0.5, ...)`` sets the knobs of StarCraft II's stand-in; no engine may be left running."""

    def knobs(**values):
        Knobs(log=tmp_path / "log", **values).set(monkeypatch)

    monkeypatch.setenv("SC2PATH", str(sc2_installation))
    knobs()
    knobs.log = tmp_path / "log"
    yield knobs
    left = [pid for pid in read_log(knobs.log).running if Path(f"/proc/{pid}").exists()]
    assert not left, "engines that nobody has ended"


@pytest.fixture
def battle(engine):
    """``battle("3m")`` is a SmacEnv, ``battle("smac/3m")`` one environment of make_env; closed at the end."""
    made = []

    def make(name, **kwargs):
        create, settings = (make_env, {"num_envs": 1, "seed": 100}) if "/" in name else (SmacEnv, {"seed": 100})
        made.append(create(name, **{**settings, **kwargs}))
        return made[-1]

    yield make
    for env in made:
        env.close()
