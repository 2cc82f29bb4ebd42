"""The team's keys under another name."""

from __future__ import annotations

from tensordict import TensorDictBase
from torchrl.data.tensor_specs import Composite
from torchrl.envs import EnvBase, RenameTransform


class RenameGroup(RenameTransform):
    """Moves all that an environment has under one group to another; of the old one nothing is left.

    TorchRL's own leaves it behind, empty, in specs and data: its SerialEnv and ParallelEnv refuse that.

    Args:
        env: the environment.
        old, new: the groups.
    """

    def __init__(self, env: EnvBase, old: str, new: str):
        given = [*env.observation_spec.keys(True, True), *env.reward_keys, *env.done_keys]
        given, taken = (
            [key for key in keys if isinstance(key, tuple) and key[0] == old] for keys in (given, env.action_keys)
        )
        super().__init__(given, [(new, *key[1:]) for key in given], taken, [(new, *key[1:]) for key in taken])
        self.old = old

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        return _without_empty(super()._call(next_tensordict), self.old)

    def transform_output_spec(self, output_spec: Composite) -> Composite:
        output_spec = super().transform_output_spec(output_spec)
        for name in ("full_observation_spec", "full_reward_spec", "full_done_spec"):
            _without_empty(output_spec[name], self.old)
        return output_spec

    def transform_input_spec(self, input_spec: Composite) -> Composite:
        input_spec = super().transform_input_spec(input_spec)
        _without_empty(input_spec["full_action_spec"], self.old)
        return input_spec


def _without_empty(content: TensorDictBase | Composite, group: str) -> TensorDictBase | Composite:
    left = content.get(group, None)
    if left is not None and not any(True for _ in left.keys(True, True)):  # a spec of empty specs is not is_empty()
        del content[group]
    return content
