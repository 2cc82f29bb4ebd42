"""``training.update_input``: what the policy update reads where the rollout read the inferred state."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from torchrl.modules import set_recurrent_mode
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import TrainerHookBase

from globediff_torchrl import keys
from globediff_torchrl.policies.recurrent import hidden_before, memories

UPDATE_INPUTS = ("inferred", "true")


def update_reads_truth(update_input: bool | str) -> bool:
    """Whether ``training.update_input`` asks for the true state.

    YAML and the command line make a bool of ``true``; in quotes it stays a string. Both are taken, as is any case.
    """
    return str(update_input).lower() == "true"


class TrueInferences(TrainerHookBase):
    """``training.update_input=true``: the policy update reads the true state where the rollout read the inferred one.

    That is the paper's Sec. 4.3. The probability ratio would then not be 1 before the first update, so the stored
    log-probability is replaced by that of the stored action under the true state, once a batch; so are the hidden
    states of a recurrent actor, which are those of what the rollout read.
    """

    def __init__(self, actor: ProbabilisticTensorDictSequential, target: NestedKey = keys.STATE) -> None:
        self.actor, self.target = actor, target
        self.inferences = [key for key in keys.INFERENCES if key in actor.in_keys]

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        state = batch.get(self.target)
        for key in self.inferences:
            truth = state if state.ndim > batch.ndim + 1 else state.unsqueeze(-2)  # the same for all agents
            truth = truth.unsqueeze(-2) if key == keys.HYPOTHESES else truth
            batch.set(key, truth.expand_as(batch.get(key)).contiguous())
        with set_recurrent_mode(True):  # in the order of time, where there is a memory
            distribution = self.actor.get_dist(batch)
        for head in memories(self.actor):
            batch.set(head.hidden_key, hidden_before(batch, head))
        return batch.set(keys.ACTION_LOG_PROB, distribution.log_prob(batch.get(keys.ACTION)))

    def register(self, trainer: Trainer, name: str = "true_inferences") -> None:
        trainer.register_op("batch_process", self)
