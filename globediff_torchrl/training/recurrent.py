"""What MAPPO's update does otherwise where actor or critic has a memory: chunks of steps, and values in their order."""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDictBase, unravel_key
from torch import Tensor
from torchrl.modules import set_recurrent_mode
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.trainers import Trainer

from globediff_torchrl import keys
from globediff_torchrl.policies.recurrent import RecurrentHead, episode_starts, hidden_before, memories
from globediff_torchrl.training.mappo import Advantages, Minibatches


class ChunkMinibatches(Minibatches):
    """Random minibatches of chunks: successive steps of one environment, with all its agents.

    A sample is ``[M, L]``: each environment's steps are cut into chunks as even as can be, of at most ``length``. Its
    hidden states are those from which the chunks start, as they were in the rollout; the networks go on from them, and
    empty their memories where an episode starts within a chunk. Gradients end at a chunk's start.

    The steps of a batch need not divide: the last chunk of each environment is filled up with copies of its last step,
    in which nobody is active, so that the loss does not count them (the ratio's figures in the log do).

    Args:
        loss: names the keys to keep, and has the networks.
        batch_shape: environments and steps of a batch.
        minibatches: minibatches an epoch, all of the same number of chunks.
        length: most steps in a chunk; None for the whole batch.
        device: as :class:`Minibatches`.

    Raises:
        UserError: the chunks do not divide into the minibatches.
    """

    unit = "chunks (of at most training.chunk_length steps of an environment)"
    successive = True

    def __init__(
        self,
        loss: MAPPOLoss,
        batch_shape: tuple[int, int],
        minibatches: int,
        length: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        envs, self.steps = batch_shape
        self.chunks = math.ceil(self.steps / (length or self.steps))  # of one environment
        self.length = math.ceil(self.steps / self.chunks)
        super().__init__(loss, envs * self.chunks, minibatches, device)
        self.heads = [*memories(loss.actor_network), *memories(loss.critic_network)]
        self.first: dict[Any, Tensor] = {}

    def extend(self, batch: TensorDictBase) -> None:
        batch = batch.select(*self.keys, strict=False).reshape(-1, self.steps)
        batch = self._filled_up(batch).reshape(-1, self.length)
        self.first = {head.hidden_key: batch.get(head.hidden_key)[:, 0].clone() for head in self.heads}
        self.buffer.empty()
        self.buffer.extend(batch.exclude(*self.first))

    def _filled_up(self, batch: TensorDictBase) -> TensorDictBase:
        steps = torch.arange(self.chunks * self.length, device=batch.device)
        if len(steps) == self.steps:
            return batch
        valid = (steps < self.steps).reshape(1, -1, 1, 1)
        # dense: a lazy stack would hold its last step several times over, and that step's mask would be the copies'
        batch = batch[:, steps.clamp(max=self.steps - 1)].contiguous()
        active = batch.get(keys.ACTIVE_MASK, None)
        valid = valid.expand_as(batch.get(keys.ADVANTAGE)) if active is None else valid & active
        return batch.set(keys.ACTIVE_MASK, valid)

    def sample(self, batch: TensorDictBase) -> TensorDictBase:
        chunks = self.buffer.sample()
        index = chunks.get("index").reshape(len(chunks), -1)[:, 0]
        for key, first in self.first.items():
            start = first[index].unsqueeze(1)
            # of the steps behind the first nothing is read: a view fills them
            chunks.set(key, start.expand(-1, self.length, *start.shape[2:]))
        return chunks


class RecurrentAdvantages(Advantages):
    """The advantages where the critic has a memory.

    The collector does not run the critic: here it goes over the batch in the order of time, from the hidden state that
    it had at the end of the batch before. The value after a step is that of the next state with the memory of this
    one, also where an episode ends and where the batch does.

    Writes, besides what :class:`Advantages` does, the critic's hidden state before each step. Call it once for each
    batch, in the order in which they were collected: a second call on the same one would begin with the hidden state
    at its end.

    Args:
        loss: see :class:`Advantages`; its critic is a :class:`RecurrentHead`.
    """

    def __init__(self, loss: MAPPOLoss) -> None:
        super().__init__(loss)
        self.critic: RecurrentHead = loss.critic_network
        self.hidden: Tensor | None = None

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        time, key = batch.batch_dims - 1, self.critic.hidden_key
        self._set_first(batch, time)
        with set_recurrent_mode(True):
            self.critic(batch)
        self.hidden = batch.get(unravel_key(("next", key))).select(time, batch.shape[time] - 1).clone()
        batch.set(key, hidden_before(batch, self.critic))
        batch.set(("next", *keys.STATE_VALUE), self._next_value(batch, time))
        return super().__call__(batch)

    def _set_first(self, batch: TensorDictBase, time: int) -> None:
        """The carried hidden state, zero where the batch begins with an episode, at each step (the first is read)."""
        agents = () if isinstance(self.critic.hidden_key, str) else batch.get(keys.AGENTS).shape[-1:]
        shape = (*batch.shape[:time], *agents, self.critic.memory.size)
        state = batch.get(keys.STATE)
        # a checkpoint is read to the CPU, whatever the device
        hidden = state.new_zeros(shape) if self.hidden is None else self.hidden.to(state.device)
        starts = episode_starts(batch, hidden.ndim + 1).select(time, 0)
        hidden = hidden.masked_fill(starts, 0.0).unsqueeze(time)
        batch.set(self.critic.hidden_key, hidden.expand(*batch.shape, *shape[time:]))

    def _next_value(self, batch: TensorDictBase, time: int) -> Tensor:
        """The next step's value; computed anew where an episode or the batch ends, from the true last state."""
        value = batch.get(keys.STATE_VALUE)
        ends = batch.get(("next", keys.DONE)).squeeze(-1).clone()
        ends.select(time, -1).fill_(True)
        last = batch.get("next").select(*self.critic.in_keys)[ends]
        following = value.roll(-1, time)
        following[ends] = self.critic(last).get(keys.STATE_VALUE)
        return following

    def state_dict(self) -> dict[str, Any]:
        return {"hidden": self.hidden}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.hidden = state_dict["hidden"]

    def register(self, trainer: Trainer, name: str = "advantages") -> None:
        super().register(trainer, name)
        trainer.register_module(name, self)
