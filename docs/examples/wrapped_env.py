"""Any TorchRL environment with observations by group and a root "state", in this project's keys."""

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from globediff_torchrl import GlobeDiff, fit, make_actor, wrap_env
from globediff_torchrl.envs import Feature, FeatureLayout


class Beacon(EnvBase):
    """Two walkers on a line, a beacon that neither sees; each hears its distance."""

    def __init__(self, num_envs: int = 16):
        super().__init__(batch_size=[num_envs])
        walkers = Composite({"observation": Unbounded((num_envs, 2, 2))}, shape=(num_envs, 2))
        self.observation_spec = Composite({"walkers": walkers, "state": Unbounded((num_envs, 3))}, shape=(num_envs,))
        action = Composite({"action": Bounded(-0.1, 0.1, (num_envs, 2, 1))}, shape=(num_envs, 2))
        self.action_spec = Composite({"walkers": action}, shape=(num_envs,))
        reward = Composite({"reward": Unbounded((num_envs, 2, 1))}, shape=(num_envs, 2))
        self.reward_spec = Composite({"walkers": reward}, shape=(num_envs,))
        self.done_spec = Composite({"done": Categorical(2, (num_envs, 1), dtype=torch.bool)}, shape=(num_envs,))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDict:
        fresh = torch.rand(*self.batch_size, 3) * 2 - 1  # both walkers and the beacon
        if tensordict is not None and "_reset" in tensordict:
            fresh = torch.where(tensordict["_reset"], fresh, self.places)
        self.places = fresh
        return self._read()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.places = self.places.clone()
        self.places[:, :2] += tensordict["walkers", "action"].squeeze(-1)
        out = self._read()
        reward = -(self.places[:, :2] - self.places[:, 2:]).abs().unsqueeze(-1)
        out["walkers", "reward"] = reward
        return out

    def _read(self) -> TensorDict:
        own, beacon = self.places[:, :2], self.places[:, 2:]
        observation = torch.stack([own, (own - beacon).abs()], dim=-1)
        walkers = TensorDict({"observation": observation}, (*self.batch_size, 2))
        done = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return TensorDict({"walkers": walkers, "state": self.places.clone(), "done": done}, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(seed)


env = wrap_env(
    Beacon(),
    group="walkers",
    aux="joint_history",
    max_steps=20,
    observation_layout=FeatureLayout((Feature("agent", "place", "other"), Feature("beacon", "range", "range"))),
)
globediff = GlobeDiff.from_env(env)
data = env.rollout(100, break_when_any_done=False)
fit(globediff, data, steps=50, progress=False)
rollout = env.rollout(20, TensorDictSequential(globediff, make_actor(env, globediff)), break_when_any_done=False)
