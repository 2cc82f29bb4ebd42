"""Actions of a step: the policy's, or random legal ones where ``rand_action`` knows nothing of the action mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, OneHot
from torchrl.envs import EnvBase, TransformedEnv

from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import ACTION, ACTION_MASK


def actions_of(tensordict: TensorDictBase) -> Tensor:
    """The team's actions, as the policy wrote them.

    Raises:
        UserError: it wrote none.
    """
    actions = tensordict.get(ACTION, None)
    if actions is None:
        raise UserError(
            f"a step expects {ACTION} from the policy, got a tensordict without it: put an actor behind the state "
            "model, TensorDictSequential(state_model, make_actor(env, state_model)), or write that key."
        )
    return actions


def action_indices(env: EnvBase, tensordict: TensorDictBase) -> Tensor:
    """The team's categorical actions, int32 on the CPU, a copy.

    Raises:
        UserError: the policy wrote none, some of another shape or type, or one that there is not: a simulator would
            take it for another action, or know it in its next observation.
    """
    actions, spec = actions_of(tensordict), env.full_action_spec[ACTION]
    if actions.shape != spec.shape or actions.dtype.is_floating_point or actions.dtype == torch.bool:
        raise UserError(
            f"{ACTION} expects whole numbers of shape {list(spec.shape)}, one an agent, got {actions.dtype} "
            f"{list(actions.shape)}: of scores or one-hot actions take argmax(-1)."
        )
    lowest, highest = (int(bound) for bound in actions.aminmax())
    if lowest < 0 or highest >= spec.n:
        raise UserError(
            f"{ACTION} expects numbers from 0 to {spec.n - 1}, got {lowest if lowest < 0 else highest}: sample them "
            f"with {ACTION_MASK}."
        )
    return actions.to("cpu", torch.int32, copy=True).contiguous()


def legal_action(env: EnvBase, tensordict: TensorDictBase | None, mask: Tensor | None = None) -> TensorDictBase | None:
    """``tensordict`` with an action drawn uniformly where its ``("agents", "action_mask")`` is True.

    ``mask`` stands in where it has none. Of an agent for which nothing is legal, such as a dead one in some
    environments, any action. None where there is no mask at all, or the actions are neither categorical nor one-hot.
    """
    given = None if tensordict is None else tensordict.get(ACTION_MASK, None)
    mask = mask if given is None else given
    if mask is None:
        return None
    spec = env.full_action_spec[ACTION]
    one_hot = isinstance(spec, OneHot) and spec.shape == mask.shape
    if not one_hot and spec.shape != mask.shape[:-1]:
        return None
    mask = mask.bool()
    allowed = mask | ~mask.any(dim=-1, keepdim=True)  # a row without a chance would be an error of multinomial's
    action = torch.multinomial(allowed.flatten(0, -2).float(), 1).reshape(mask.shape[:-1])
    if one_hot:
        action = torch.nn.functional.one_hot(action, mask.shape[-1]).to(spec.dtype)
    out = env.full_action_spec.zero() if tensordict is None else tensordict
    return out.set(ACTION, action)


def random_action(
    env: EnvBase,
    tensordict: TensorDictBase | None,
    ordinary: Callable[[TensorDictBase | None], TensorDictBase],
    mask: Tensor | None = None,
) -> TensorDictBase:
    """:func:`legal_action` where that gives one, with the actions of ``ordinary`` for all groups but the team."""
    if len(env.action_keys) > 1:  # not always: of a team alone it would draw, and move the random stream, for nothing
        tensordict = ordinary(tensordict)
        drawn = legal_action(env, tensordict, mask)
        return tensordict if drawn is None else drawn
    drawn = legal_action(env, tensordict, mask)
    return ordinary(tensordict) if drawn is None else drawn


class LegalRandomActions:
    """Mixed into an environment: ``rand_action`` is :func:`random_action`."""

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        return random_action(self, tensordict, super().rand_action, self._legal_now())

    def _legal_now(self) -> Tensor | None:
        """The mask of where the environment is now, if it knows; used where a tensordict has none."""
        return None


class LegalTransformedEnv(TransformedEnv):
    """A TransformedEnv whose random actions heed the mask of the step.

    TorchRL's own draws from a copy of the action spec, in which the mask stays what it was when the copy was made; here
    the copy has none. A further TransformedEnv does not unwrap it, as it is no plain one, and asks it for its actions.
    """

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        return random_action(self, tensordict, partial(EnvBase.rand_action, self))

    def _make_input_spec(self) -> Composite:
        input_spec = super()._make_input_spec()
        action = input_spec["full_action_spec"][ACTION]
        if getattr(action, "mask", None) is not None:
            action.update_mask(None)
        return input_spec


def transformed_env_for(env: EnvBase) -> type[TransformedEnv]:
    """The class to put around ``env``, in this project's keys: a legal one where nothing else heeds its mask."""
    masked = ACTION_MASK in env.observation_spec.keys(True, True)
    draws_itself = type(env).rand_action not in (EnvBase.rand_action, TransformedEnv.rand_action)
    return LegalTransformedEnv if masked and not draws_itself else TransformedEnv
