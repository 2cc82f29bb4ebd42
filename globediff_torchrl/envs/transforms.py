"""Small transforms that bring a multi-agent environment into the keys of :mod:`globediff_torchrl.keys`."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data.tensor_specs import Bounded, Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs import Transform

from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import (
    ACTION,
    ACTION_MASK,
    ACTIVE_MASK,
    AGENT_ID,
    AGENTS,
    LAST_ACTION,
    OBSERVATION,
    STEP_COUNT,
    TIME,
)


def reset_mask(tensordict: TensorDictBase) -> Tensor | None:
    """Which environments are being reset, ``[*B]`` (bool); None where all are."""
    mask = tensordict.get("_reset", None)
    if mask is None:
        mask = tensordict.get((AGENTS, "_reset"), None)
    if mask is None:
        return None
    return mask.reshape(*tensordict.batch_size, -1).any(dim=-1)


def put(tensordict: TensorDictBase, key: NestedKey, value: Tensor) -> TensorDictBase:
    """Sets an entry whose shape and device are right, and returns the tensordict.

    In a step of one environment, what ``set`` spends on its checks is more than what is computed.
    """
    put_in = tensordict._set_str if isinstance(key, str) else tensordict._set_tuple
    put_in(key, value, inplace=False, validated=True)
    return tensordict


class AlwaysWrites(Transform):
    """Base of the transforms that write the same after a reset as after a step, and into recorded data.

    Called on a tensordict, or in a replay buffer, they read and write its root, as TorchRL's do, not ``"next"``.
    """

    @dispatch(source="in_keys", dest="out_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What a step would write, of recorded data ``[*B]``.

        Raises:
            UserError: they do not hold what it reads.
        """
        for key in self.in_keys:
            if tensordict.get(key, None) is None:
                found = sorted(map(str, tensordict.keys(True, True)))
                raise UserError(
                    f"{type(self).__name__} expects {key!r} in the data, got {found}: record it, or name the key where "
                    f"it stands when the transform is made."
                )
        return self._call(tensordict)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)


class ReadsSteps(Transform):
    """Base of the transforms that read the step before as well: they need an environment."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refuses recorded data, which need not be successive, nor say where an episode begins.

        Raises:
            UserError: always.
        """
        name = type(self).__name__
        raise UserError(
            f"{name} expects the steps of an environment, one behind the other, got recorded data of shape "
            f"{list(tensordict.shape)}: put it around the environment, TransformedEnv(env, {name}(...)), and record "
            f"{self.out_keys[0]!r} there."
        )


class Eye:
    """Identity matrices, made once for a shape and a device; to be read only."""

    def __init__(self) -> None:
        self._made_for, self._eye = None, None

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """``[*B, n]`` -> ``[*B, n, n]`` (float)."""
        if self._made_for != (shape, device):
            self._made_for = shape, device
            self._eye = torch.eye(shape[-1], device=device).expand(*shape, shape[-1])
        return self._eye


class HideFeatures(AlwaysWrites):
    """Zeroes features of the observation, for all agents or for some.

    Reads and writes ``("agents", "observation")`` ``[*B, n, d_o]``.

    Args:
        visible: ``[n, d_o]`` (bool), False where a number is hidden; ``hiding.resolve_hidden`` makes it from names.
        names: what is hidden, for ``repr``.
        key: the observation's key.
    """

    def __init__(self, visible: Tensor, names: tuple[str, ...] = (), key: NestedKey = OBSERVATION):
        super().__init__(in_keys=[key], out_keys=[key])
        self.names = tuple(names)
        self.register_buffer("visible", visible.to(torch.bool), persistent=False)

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        observation = next_tensordict.get(self.in_keys[0])
        # where, not a product: what is hidden may be infinite; a zero of its dtype: 0.0 would make floats of integers
        hidden = torch.where(self.visible, observation, observation.new_zeros(()))
        return put(next_tensordict, self.out_keys[0], hidden)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        spec = observation_spec[self.in_keys[0]]
        if isinstance(spec, Bounded):  # wide enough for the zeros
            visible, (low, high) = self.visible.to(spec.device), (spec.space.low, spec.space.high)
            low, high = low.where(visible, low.clamp(max=0)), high.where(visible, high.clamp(min=0))
            wide = Bounded(low, high, spec.shape, device=spec.device, dtype=spec.dtype)
            observation_spec[self.out_keys[0]] = wide
        return observation_spec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.names) or 'nothing'})"


class LastAction(ReadsSteps):
    """Each agent's own previous action; zero after a reset, one-hot where actions are discrete.

    Reads ``("agents", "action")``; writes ``("agents", "last_action")`` ``[*B, n, d_a]`` (float).

    Args:
        action_spec: the spec of one step's actions, ``[*B, n, ...]``.
    """

    def __init__(
        self,
        action_spec: TensorSpec,
        action_key: NestedKey = ACTION,
        observation_key: NestedKey = OBSERVATION,
        out_key: NestedKey = LAST_ACTION,
    ):
        super().__init__(in_keys=[observation_key], out_keys=[out_key])
        self.action_key = action_key
        self.n_actions, self.size = action_size(action_spec)
        self.eye = Eye()

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        observation = tensordict_reset.get(self.in_keys[0])
        shape = (*observation.shape[:-1], self.size)
        return tensordict_reset.set(self.out_keys[0], observation.new_zeros(shape, dtype=torch.float32))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(self.action_key)
        if self.n_actions is not None:
            action = torch.nn.functional.embedding(action.long(), self.eye((self.n_actions,), action.device))
        else:
            action = action.to(torch.float32, copy=True)
        return put(next_tensordict, self.out_keys[0], action)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        shape = observation_spec[self.in_keys[0]].shape[:-1]
        observation_spec[self.out_keys[0]] = Unbounded((*shape, self.size), device=observation_spec.device)
        return observation_spec


def action_size(action_spec: TensorSpec) -> tuple[int | None, int]:
    """``(number of discrete actions or None, d_a)`` of a spec of ``[*B, n, ...]`` actions."""
    if type(action_spec) is Categorical:  # of which torchrl's Binary and MultiCategorical are kinds, of several numbers
        return action_spec.n, action_spec.n
    if not action_spec.dtype.is_floating_point and type(action_spec).__name__ not in ("OneHot", "Binary"):
        raise UserError(
            f"Actions must be continuous, categorical or one-hot, got {type(action_spec).__name__}: number them, as a "
            "Categorical spec [*B, n]."
        )
    return None, action_spec.shape[-1]


class AgentId(AlwaysWrites):
    """One-hot index of the agent: ``("agents", "agent_id")`` ``[*B, n, n]`` (float)."""

    def __init__(self, observation_key: NestedKey = OBSERVATION, out_key: NestedKey = AGENT_ID):
        super().__init__(in_keys=[observation_key], out_keys=[out_key])
        self.eye = Eye()

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        observation = next_tensordict.get(self.in_keys[0])
        index = self.eye(observation.shape[:-1], observation.device)
        # a copy: a partial reset writes into the entries of a tensordict
        return put(next_tensordict, self.out_keys[0], index.clone())

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        shape = observation_spec[self.in_keys[0]].shape[:-1]
        observation_spec[self.out_keys[0]] = Bounded(0.0, 1.0, (*shape, shape[-1]), device=observation_spec.device)
        return observation_spec


class ActiveMask(AlwaysWrites):
    """Which agents are alive: ``("agents", "active_mask")`` ``[*B, n, 1]`` (bool).

    Reads ``("agents", "action_mask")`` ``[*B, n, A]`` where ``no_op`` is given: an agent whose no-op is legal is dead,
    as in SMAC. Or ``alive_key`` ``[*B, n]``, where that is given. Without either, everybody is alive.

    Args:
        no_op: index of the action that the dead take, None where nobody dies.
        alive_key: what already says who is alive.
    """

    def __init__(
        self,
        no_op: int | None = None,
        mask_key: NestedKey = ACTION_MASK,
        observation_key: NestedKey = OBSERVATION,
        out_key: NestedKey = ACTIVE_MASK,
        alive_key: NestedKey | None = None,
    ):
        super().__init__(in_keys=[observation_key], out_keys=[out_key])
        self.no_op, self.mask_key, self.alive_key = no_op, mask_key, alive_key

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        observation = next_tensordict.get(self.in_keys[0])
        shape = (*observation.shape[:-1], 1)
        if self.alive_key is not None:
            alive = next_tensordict.get(self.alive_key).reshape(shape)
        elif self.no_op is None:
            alive = torch.ones(shape, dtype=torch.bool, device=observation.device)
        else:
            alive = ~next_tensordict.get(self.mask_key)[..., self.no_op : self.no_op + 1]
        return put(next_tensordict, self.out_keys[0], alive)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        shape = (*observation_spec[self.in_keys[0]].shape[:-1], 1)
        spec = Categorical(2, shape=shape, dtype=torch.bool, device=observation_spec.device)
        observation_spec[self.out_keys[0]] = spec
        return observation_spec


class TimeFraction(AlwaysWrites):
    """Share of the time limit that has passed: ``"time"`` ``[*B, 1]``; zero where there is no limit.

    Reads ``"step_count"`` ``[*B, 1]``, so it stands behind TorchRL's StepCounter.
    """

    def __init__(self, max_steps: int | None, count_key: NestedKey = STEP_COUNT, out_key: NestedKey = TIME):
        super().__init__(in_keys=[count_key], out_keys=[out_key])
        self.scale = 0.0 if max_steps is None else 1.0 / max_steps

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        steps = next_tensordict.get(self.in_keys[0]).to(torch.float32)
        return put(next_tensordict, self.out_keys[0], steps * self.scale)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        shape = observation_spec[self.in_keys[0]].shape
        observation_spec[self.out_keys[0]] = Bounded(0.0, 1.0, shape, device=observation_spec.device)
        return observation_spec
