"""What the tests of policies, training and evaluation share: runs of a second, and a small discrete environment."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from globediff_torchrl import make_trainer, wrap_env

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
def progress():
    """``progress(folder)`` -> the rows of progress.csv as dictionaries of strings, without the timings."""

    def read(folder: Path) -> list[dict[str, str]]:
        with (folder / "progress.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]

    return read


class Skirmish(EnvBase):
    """Three agents, four actions; action 0 is the no-op of the dead; the last agent dies after two steps."""

    agents, actions, dead = 3, 4, 0

    def __init__(self, num_envs: int = 6):
        super().__init__(batch_size=[num_envs])
        b, n = num_envs, self.agents
        team = Composite(
            observation=Unbounded((b, n, 2)), action_mask=Binary(4, (b, n, 4), dtype=torch.bool), shape=(b, n)
        )
        self.observation_spec = Composite(agents=team, state=Unbounded((b, 4)), shape=(b,))
        self.action_spec = Composite(agents=Composite(action=Categorical(4, (b, n)), shape=(b, n)), shape=(b,))
        self.reward_spec = Composite(agents=Composite(reward=Unbounded((b, n, 1)), shape=(b, n)), shape=(b,))
        self.generator = torch.Generator().manual_seed(0)

    def _observe(self) -> TensorDict:
        b, n = self.batch_size[0], self.agents
        mask = torch.rand((b, n, 4), generator=self.generator) < 0.5
        mask[..., 1] = True
        mask[..., 0] = False
        if self.clock >= 2:
            mask[:, -1] = torch.tensor([True, False, False, False])
        observation = torch.randn((b, n, 2), generator=self.generator)
        state = torch.cat([observation[..., 0], observation.new_full((b, 1), self.clock)], -1)
        team = TensorDict({"observation": observation, "action_mask": mask}, (b, n))
        return TensorDict({"agents": team, "state": state}, (b,))

    def _reset(self, tensordict=None, **kwargs):
        self.clock = 0
        return self._observe()

    def _step(self, tensordict):
        self.clock += 1
        out = self._observe()
        out["agents", "reward"] = tensordict["agents", "action"].unsqueeze(-1).float()
        out["done"] = out["terminated"] = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return out

    def _set_seed(self, seed):
        self.generator.manual_seed(seed or 0)


@pytest.fixture
def skirmish():
    """A small environment with discrete actions, an action mask, and an agent that dies."""
    return wrap_env(Skirmish(), no_op=0, max_steps=5, aux="history")
