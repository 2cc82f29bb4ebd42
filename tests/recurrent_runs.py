"""What the tests of recurrent MAPPO share: small networks with a memory, their rollouts, and a recorded training."""

from __future__ import annotations

import torch
from small_loss import SETTINGS
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from globediff_torchrl import keys as k
from globediff_torchrl import make_actor, make_critic, make_env
from globediff_torchrl.policies import add_memory
from globediff_torchrl.training.mappo import make_loss

RECURRENT = ["training=mappo_recurrent", "training.minibatches=1", "training.epochs=2"]
SMALL = {"hidden_sizes": (16,), "recurrent": "gru"}


def recurrent_loss(env, critic_inputs=("state",), **actor):
    """The loss of two small recurrent networks, the actor's memory carried by ``env``."""
    torch.manual_seed(0)
    actor = make_actor(env, reads=None, gain=1.0, **{**SMALL, **actor})
    add_memory(env, actor)
    return make_loss(actor, make_critic(env, inputs=critic_inputs, **SMALL), None, **SETTINGS)


def drawn(env, loss, steps, start=None):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        options = {} if start is None else {"tensordict": start, "auto_reset": False}
        return env.rollout(steps, loss.actor_network, break_when_any_done=False, **options)


def out_of_step():
    """Four environments with a limit of 5 steps, each at another step of its episode."""
    env = make_env("vmas/hunt", num_envs=4, seed=0, max_steps=5)
    loss = recurrent_loss(env)
    start = env.reset()
    start["step_count"] = torch.tensor([[0], [1], [3], [4]])
    return env, loss, start


def first_chunks(trainer):
    """Trains, and records what the first optimisation step of each batch was to work on, and its probability ratio."""
    stepper, seen = trainer.optimization_stepper, []
    step, per_batch = stepper.step, trainer.num_epochs * trainer.optim_steps_per_batch

    def recording(owner, sub_batch):
        if stepper.steps % per_batch == 0:
            with torch.no_grad(), set_recurrent_mode(True):
                new = trainer.team.actor.get_dist(sub_batch.clone()).log_prob(sub_batch[k.ACTION])
            ratio = (new - sub_batch[k.ACTION_LOG_PROB]).exp()
            seen.append((sub_batch.clone(), ratio[sub_batch[k.ACTIVE_MASK].squeeze(-1)]))
        return step(owner, sub_batch)

    stepper.step = recording
    trainer.train()
    return seen
