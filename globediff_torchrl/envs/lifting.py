"""Observations that are dictionaries, as PettingZoo's masked ones: the one tensor takes the dictionary's place."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torchrl.data.tensor_specs import Composite
from torchrl.envs import EnvBase, TransformedEnv

from globediff_torchrl.envs.transforms import AlwaysWrites
from globediff_torchrl.errors import UserError


class Lift(AlwaysWrites):
    """Puts entries from within a tensordict into other places, also into that of the tensordict itself.

    Args:
        places: where an entry is, and where it goes; TorchRL's RenameTransform cannot put it in its parent's place.
    """

    def __init__(self, places: dict[NestedKey, NestedKey]):
        super().__init__(in_keys=list(places), out_keys=list(places.values()))

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        values = [next_tensordict.get(key) for key in self.in_keys]  # all of them first: one takes the others' parent
        for key, value in zip(self.out_keys, values):
            next_tensordict.set(key, value)
        return next_tensordict

    def _reset_env_preprocess(self, tensordict: TensorDictBase | None) -> TensorDictBase | None:
        # ParallelEnv matches its buffers with this; where the dictionary is missing, tensordict puts one for its tensor
        for key in self.in_keys if tensordict is not None else ():
            tensordict.set(key[:-1], tensordict.empty())
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        specs = [observation_spec[key].clone() for key in self.in_keys]
        for key, spec in zip(self.out_keys, specs):
            observation_spec[key] = spec
        return observation_spec


def lift_observation(env: EnvBase, group: str) -> EnvBase:
    """The environment with ``(group, "observation")`` a tensor, where it is a dictionary of one.

    A mask in the dictionary becomes ``(group, "action_mask")``; of PettingZoo's agents TorchRL has done that already.

    Raises:
        UserError: the dictionary has several tensors, or none.
    """
    observation, mask = (group, "observation"), (group, "action_mask")
    inner_mask = (*observation, "action_mask")
    keys = env.observation_spec.keys(True, True)
    inside = [key for key in keys if isinstance(key, tuple) and len(key) > 2 and key[:2] == observation]
    if not inside:
        return env
    tensors = [key for key in inside if key != inner_mask]
    if len(tensors) != 1:
        raise UserError(
            f"wrap_env expects one tensor {observation} [*B, n, d_o], got a dictionary of {sorted(tensors)}: flatten "
            f"each to [*B, n, d] and join them by TransformedEnv(env, CatTensors([...], {(*observation, 'all')}))."
        )
    places = {tensors[0]: observation}
    if inner_mask in inside and mask not in keys:
        places[inner_mask] = mask
    return TransformedEnv(env, Lift(places), auto_unwrap=False)
