"""The auxiliary observation x: histories (Eq. 1 of the paper) and joint observations (Eq. 2)."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.data.tensor_specs import Composite, Unbounded

from globediff_torchrl.envs.transforms import AlwaysWrites, Eye, ReadsSteps, put, reset_mask
from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import AUX_OBSERVATION, LAST_ACTION, OBSERVATION


class FrameMemory(nn.Module):
    """The last ``history + 1`` frames of every agent, newest first, ``[*B, n, (history + 1) * f]``.

    With ``differences``: o_t, then o_t - o_{t-1}, o_{t-1} - o_{t-2}, ... A step of .02 among positions of spread .3 is
    lost on a network that reads stacked frames; as a difference it is an input of its own. Nothing is lost.
    Before the first frame of an episode the first one is repeated.
    """

    def __init__(self, history: int, differences: bool):
        super().__init__()
        if isinstance(history, bool) or not isinstance(history, int) or history < 0:
            raise UserError(
                f"history must be a whole number of earlier frames, 0 or more, got {history!r}: 3 is the default."
            )
        self.history, self.differences = history, differences
        self.register_buffer("frames", None, persistent=False)

    def clone(self) -> FrameMemory:
        """The same memory, which goes its own way from here."""
        twin = FrameMemory(self.history, self.differences)
        twin.frames = None if self.frames is None else self.frames.clone()
        return twin

    def restart(self, frame: Tensor, chosen: Tensor | None) -> Tensor:
        """Begin anew with ``frame`` ``[*B, n, f]`` where ``chosen`` ``[*B]`` is True (None: everywhere)."""
        if self.differences:
            fresh = torch.cat([frame, frame.new_zeros((*frame.shape[:-1], self.history * frame.shape[-1]))], dim=-1)
        else:
            fresh = torch.cat([frame] * (self.history + 1), dim=-1)
        if chosen is None or self.frames is None or self.frames.shape != fresh.shape:
            self.frames = fresh
        else:
            self.frames = torch.where(chosen[..., None, None], fresh, self.frames)
        return self.frames

    def push(self, frame: Tensor) -> Tensor:
        """Add ``frame`` ``[*B, n, f]``, which it may keep as it is, and drop the oldest."""
        if self.frames is None:
            return self.restart(frame, None)
        size, old = frame.shape[-1], self.frames
        if self.history == 0:
            self.frames = frame
        elif self.differences:
            kept = old[..., size : self.history * size]
            self.frames = torch.cat([frame, frame - old[..., :size], kept], dim=-1)
        else:
            self.frames = torch.cat([frame, old[..., : self.history * size]], dim=-1)
        return self.frames


def joint(x: Tensor) -> Tensor:
    """``[*B, n, f]`` -> ``[*B, n, n * f]``: agent i's own, then those of i+1, i+2, ... (around the team)."""
    return _joint_view(x).contiguous()


def _joint_view(x: Tensor) -> Tensor:
    """The same without its copy: overlapping windows of the team written twice in a row, to be read only."""
    *batch, n, size = x.shape
    twice = torch.cat([x, x.narrow(-2, 0, n - 1)], dim=-2).contiguous()
    return twice.as_strided((*batch, n, n * size), (*twice.stride()[:-2], size, 1))


class Remembers(ReadsSteps):
    """Base of the transforms that hold a :class:`FrameMemory`."""

    memory: FrameMemory

    def clone(self) -> Remembers:
        """For another environment: TorchRL's shares all modules, and the two environments would fill one memory."""
        twin = super().clone()
        twin.memory = self.memory.clone()
        return twin


class ObservationHistory(Remembers):
    """Eq. 1: what each agent saw at t, t-1, ..., t-m.

    Reads ``("agents", "observation")`` ``[*B, n, d_o]``; writes ``("agents", "aux_observation")``
    ``[*B, n, (m + 1) d_o]``, newest first; see :class:`FrameMemory`. Each environment begins anew when it is reset.

    Args:
        history: m, how many earlier frames (3 in the paper).
        differences: earlier frames as successive differences.
    """

    def __init__(
        self,
        history: int = 3,
        differences: bool = False,
        in_key: NestedKey = OBSERVATION,
        out_key: NestedKey = AUX_OBSERVATION,
    ):
        super().__init__(in_keys=[in_key], out_keys=[out_key])
        self.memory = FrameMemory(history, differences)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        frame = tensordict_reset.get(self.in_keys[0]).to(torch.float32)
        frames = self.memory.restart(frame, reset_mask(tensordict))
        return tensordict_reset.set(self.out_keys[0], frames.clone())

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        # copies: a partial reset writes into the entries of a tensordict
        frame = next_tensordict.get(self.in_keys[0]).to(torch.float32, copy=True)
        return put(next_tensordict, self.out_keys[0], self.memory.push(frame).clone())

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        *shape, size = observation_spec[self.in_keys[0]].shape
        spec = Unbounded((*shape, size * (self.memory.history + 1)), device=observation_spec.device)
        observation_spec[self.out_keys[0]] = spec
        return observation_spec


class JointObservation(AlwaysWrites):
    """Eq. 2: what all agents see, own first, then agents i+1, i+2, ... around the team.

    Reads ``("agents", "observation")`` ``[*B, n, f]``; writes ``("agents", "aux_observation")`` ``[*B, n, n f]``.
    Put behind an :class:`ObservationHistory`, with ``in_key=AUX_OBSERVATION``, it makes the joint history.
    """

    def __init__(self, in_key: NestedKey = OBSERVATION, out_key: NestedKey = AUX_OBSERVATION):
        super().__init__(in_keys=[in_key], out_keys=[out_key])

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        return put(next_tensordict, self.out_keys[0], joint(next_tensordict.get(self.in_keys[0]).to(torch.float32)))

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        *shape, size = observation_spec[self.in_keys[0]].shape
        spec = Unbounded((*shape, size * shape[-1]), device=observation_spec.device)
        observation_spec[self.out_keys[0]] = spec
        return observation_spec


class AuxObservation(Remembers):
    """The x that the presets infer from, in one transform.

    A frame is an agent's observation and last action; frames make a history (Eq. 1), histories are joined (Eq. 2), and
    the agent's id is appended once. Reads ``("agents", "observation")`` ``[*B, n, d_o]`` and
    ``("agents", "last_action")`` ``[*B, n, d_a]``; writes ``("agents", "aux_observation")`` ``[*B, n, d_x]`` with
    ``d_x = (team or 1) * (history + 1) * (columns + d_a) + n``.

    Args:
        history: m, earlier frames; 0 for none.
        join: whether each agent reads the whole team's frames, its own first.
        columns: the numbers of the observation to read, ``[k]``; None for all. Those hidden from every agent are
            constant zeros, so :func:`~globediff_torchrl.envs.make_env` leaves them out.
        differences: earlier frames as successive differences.
    """

    def __init__(
        self,
        history: int = 3,
        join: bool = False,
        columns: Tensor | None = None,
        differences: bool = True,
        in_keys: tuple[NestedKey, NestedKey] = (OBSERVATION, LAST_ACTION),
        out_key: NestedKey = AUX_OBSERVATION,
    ):
        super().__init__(in_keys=list(in_keys), out_keys=[out_key])
        self.join, self.eye = join, Eye()
        self.memory = FrameMemory(history, differences)
        self.register_buffer("columns", columns, persistent=False)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        frames = self.memory.restart(self._frame(tensordict_reset), reset_mask(tensordict))
        return tensordict_reset.set(self.out_keys[0], self._finish(frames))

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        return put(next_tensordict, self.out_keys[0], self._finish(self.memory.push(self._frame(next_tensordict))))

    def _frame(self, tensordict: TensorDictBase) -> Tensor:
        observation, action = (tensordict.get(key).to(torch.float32) for key in self.in_keys)
        if self.columns is not None:
            observation = observation.index_select(-1, self.columns)
        return torch.cat([observation, action], dim=-1)

    def _finish(self, frames: Tensor) -> Tensor:
        index = self.eye(frames.shape[:-1], frames.device)
        return torch.cat([_joint_view(frames) if self.join else frames, index], dim=-1)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        *shape, observed = observation_spec[self.in_keys[0]].shape
        frame = (observed if self.columns is None else len(self.columns)) + observation_spec[self.in_keys[1]].shape[-1]
        size = frame * (self.memory.history + 1) * (shape[-1] if self.join else 1) + shape[-1]
        observation_spec[self.out_keys[0]] = Unbounded((*shape, size), device=observation_spec.device)
        return observation_spec
