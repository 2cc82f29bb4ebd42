"""Random actions that are legal, for environments whose ``rand_action`` knows nothing of the action mask."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from globediff_torchrl.keys import ACTION, ACTION_MASK


def legal_action(env: EnvBase, tensordict: TensorDictBase | None, mask: Tensor | None = None) -> TensorDictBase | None:
    """``tensordict`` with an action drawn uniformly where its ``("agents", "action_mask")`` is True.

    ``mask`` stands in where it has none. None where there is no mask at all, or the actions are not categorical.
    """
    given = None if tensordict is None else tensordict.get(ACTION_MASK, None)
    mask = mask if given is None else given
    if mask is None or env.full_action_spec[ACTION].shape != mask.shape[:-1]:
        return None
    action = torch.multinomial(mask.flatten(0, -2).float(), 1).reshape(mask.shape[:-1])
    out = env.full_action_spec.zero() if tensordict is None else tensordict
    return out.set(ACTION, action)


class LegalRandomActions:
    """Mixed into an environment: ``rand_action`` is :func:`legal_action` where that gives one."""

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        drawn = legal_action(self, tensordict, self._legal_now())
        return super().rand_action(tensordict) if drawn is None else drawn

    def _legal_now(self) -> Tensor | None:
        """The mask of where the environment is now, if it knows; used where a tensordict has none."""
        return None
