"""Everything that is compared is a composition of four parts: x, state model, what the actor reads, critic."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torchrl.envs import EnvBase
from torchrl.modules import ValueNorm

from globediff_torchrl import keys
from globediff_torchrl.envs import make_env
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.policies import add_memory, make_actor, make_critic
from globediff_torchrl.state_models import StateModel, make_state_model
from globediff_torchrl.task import AUX_KINDS
from globediff_torchrl.training.config import as_dict
from globediff_torchrl.training.mappo import BatchValueNorm

INPUTS = {
    "observation": keys.OBSERVATION,
    "aux_observation": keys.AUX_OBSERVATION,
    "last_action": keys.LAST_ACTION,
    "agent_id": keys.AGENT_ID,
    "time": keys.TIME,
}


@dataclass
class Team:
    """The modules of one algorithm.

    Args:
        state_model: infers the state, or None.
        actor: the policy head, which the loss gets.
        critic: V(s), read in training only.
        value_norm: shared by critic and loss, or None.
        policy: state model and actor in a row; what the collector and the evaluation run.
    """

    state_model: StateModel | None
    actor: ProbabilisticTensorDictSequential
    critic: TensorDictModuleBase
    value_norm: ValueNorm | None
    policy: TensorDictModuleBase


def env_from_config(config: DictConfig, num_envs: int | None = None, seed: int | None = None, **others: Any) -> EnvBase:
    """The environment of a configuration; ``num_envs`` and ``seed`` for another copy of it, ``others`` for another one:
    arguments of ``make_env`` in place of the configuration's."""
    entries = as_dict(config.env)
    family, scenario, extra = (entries.pop(name) for name in ("family", "scenario", "kwargs"))
    entries.pop("map", None)  # what SMAX and SMAC call their scenario
    if num_envs is not None:
        entries["num_envs"] = num_envs
    if config.algorithm.aux != "default":
        entries["aux"] = config.algorithm.aux
    seed = config.seed if seed is None else seed
    return make_env(f"{family}/{scenario}", seed=seed, device=config.device, **{**(extra or {}), **entries, **others})


# arguments of make_actor and make_critic that `training.actor` and `training.critic` do not hold
PASSED = {"actor": ("env", "state_model", "inputs", "reads", "view"), "critic": ("env", "value_norm")}


def _known(training: DictConfig, section: str, function: Callable) -> dict[str, Any]:
    """The section's entries, all of which ``function`` must take, and none of which make_team passes itself."""
    entries = as_dict(training[section])
    taken = [name for name in inspect.signature(function).parameters if name not in PASSED[section]]
    for name in entries:
        if name not in taken:
            raise unknown(f"entry of training.{section}", name, taken)
    return entries


def make_team(config: DictConfig, env: EnvBase) -> Team:
    """Builds the modules that ``config.algorithm`` and ``config.training`` describe.

    ``env`` is made to carry the memory of a recurrent policy.

    Raises:
        UserError: an unknown state model, input or preset; an input that the environment does not give.
    """
    algorithm, training = config.algorithm, config.training
    unfit = [name for name in algorithm.inputs if name not in INPUTS]
    if unfit:
        raise unknown("actor input", unfit[0], INPUTS)
    if "aux_observation" in algorithm.inputs and env.task.aux is None:
        entry = "env.aux" if algorithm.aux == "default" else "algorithm.aux"
        raise UserError(
            f"algorithm.inputs has aux_observation, for which an x is expected, but {entry} is null and none is built: "
            f"set {entry} to one of {', '.join(AUX_KINDS)}, or leave aux_observation away."
        )
    if algorithm.state_model is None and algorithm.reads is not None:
        raise UserError(
            f"algorithm.reads={algorithm.reads} reads an inferred state, but algorithm={algorithm.name} has no state "
            f"model, where null is expected: leave algorithm.reads away, or choose algorithm=globediff."
        )
    state_model = None
    if algorithm.state_model is not None:
        options = {name: value for name, value in as_dict(algorithm.state_model).items() if value is not None}
        state_model = make_state_model(options.pop("name"), env, **options).to(config.device)
    actor = make_actor(
        env,
        state_model,
        inputs=[INPUTS[name] for name in algorithm.inputs],
        reads=algorithm.reads,
        view=algorithm.view,
        **_known(training, "actor", make_actor),
    ).to(config.device)
    value_norm = BatchValueNorm(shape=1, device=torch.device(config.device)) if training.value_norm else None
    critic = make_critic(env, value_norm, **_known(training, "critic", make_critic)).to(config.device)
    policy = actor if state_model is None else TensorDictSequential(state_model, actor)
    add_memory(env, policy)
    return Team(state_model, actor, critic, value_norm, policy)
