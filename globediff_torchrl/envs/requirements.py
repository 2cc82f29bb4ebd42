"""What ``wrap_env`` asks of an environment."""

from __future__ import annotations

import torch
from torchrl.data import Categorical
from torchrl.data.tensor_specs import Stacked
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase

from globediff_torchrl.errors import UserError
from globediff_torchrl.keys import (
    ACTION,
    ACTION_MASK,
    ACTIVE_MASK,
    AGENT_ID,
    AGENTS,
    AUX_OBSERVATION,
    DONE,
    EPISODE_REWARD,
    LAST_ACTION,
    OBSERVATION,
    REWARD,
    STATE,
    TIME,
)
from globediff_torchrl.task import Task

ALIVE = (AGENTS, "mask")  # TorchRL's name for who is alive, of PettingZoo's agents

# what must be observed, its dimensions behind those of the batch, and what to do where it is missing
EXPECTED = (
    (OBSERVATION, ("n", "d_o"), "Rename the team's, in the env or by RenameTransform; group= names another team."),
    (
        STATE,
        ("d_s",),
        "VMAS gives a state through make_env('vmas/...'), a scenario of one's own by a preset, PettingZoo's wrapper "
        "with return_state=True.",
    ),
)

WRITTEN = (AGENT_ID, LAST_ACTION, TIME, EPISODE_REWARD)  # what wrap_env adds to every environment's observations


def check_fresh(env: EnvBase) -> None:
    """Refuses what was wrapped before: the first wrapper's Task lies on it, and a second one would take its place."""
    while isinstance(env, TransformedEnv) and "task" not in vars(env):
        env = env.base_env
    task = vars(env).get("task")
    if isinstance(task, Task):
        raise UserError(
            f"wrap_env expects an environment that was not wrapped before, got one that has the task of {task.name}: "
            "wrap a fresh environment."
        )
    if isinstance(env, BatchedEnvBase) and AGENT_ID in env.observation_spec.keys(True, True):
        raise UserError(
            f"wrap_env expects copies that were not wrapped before, got ones in a {type(env).__name__} that give "
            f"{AGENT_ID!r} already: of wrapped ones take make_env(..., num_envs=n), or wrap n bare ones as a whole."
        )


def check_keys(env: EnvBase, aux: str | None) -> None:
    """Refuses an environment without observations ``[*B, n, d_o]``, rewards ``[*B, n, 1]``, a state ``[*B, d_s]`` or a
    ``"done"`` ``[*B, 1]`` of the whole team, and one with something of its own under a key that wrap_env writes."""
    keys = env.observation_spec.keys(True, True)
    for key in WRITTEN if aux is None else (*WRITTEN, AUX_OBSERVATION):
        if key in keys:
            raise UserError(
                f"wrap_env writes {key!r}, and the environment has something of its own there: give that another name, "
                "in the env or by RenameTransform."
            )
    for key, dims, advice in EXPECTED:
        if key not in keys:
            got = sorted(map(str, keys))
            raise UserError(f"wrap_env needs the key {key!r} among the observations, got {got}. {advice}")
        shape = env.observation_spec[key].shape
        surplus = len(shape) - len(env.batch_size) - len(dims)
        if surplus:
            fix = "flatten it (FlattenObservation)" if surplus > 0 else "unsqueeze it (UnsqueezeTransform)"
            raise UserError(
                f"wrap_env expects {key!r} of shape [*B, {', '.join(dims)}] where *B is {list(env.batch_size)}, got "
                f"{list(shape)}: {fix}, in the env's spec too."
            )
        if -1 in shape:
            raise UserError(
                f"wrap_env expects {key!r} of one size for all agents, got {list(shape)}: fill the shorter ones up "
                "with zeros, in the env's spec too."
            )
    expected = (*env.observation_spec[OBSERVATION].shape[:-1], 1)
    if REWARD not in env.reward_keys or env.full_reward_spec[REWARD].shape != expected:
        got = {str(key): list(env.full_reward_spec[key].shape) for key in env.reward_keys}
        raise UserError(
            f"wrap_env needs the reward {REWARD} of shape {list(expected)}, one number an agent, got {got}: give each "
            "agent a copy of a reward that is the team's."
        )
    if DONE not in env.done_keys:
        raise UserError(
            f"wrap_env needs the key {DONE!r} [*B, 1], true where the whole team's episode ends, got "
            f"{sorted(map(str, env.done_keys))}: give the env one, e.g. of all agents' own, in its spec too."
        )


def check_actions(env: EnvBase) -> None:
    """Refuses actions that are not ``[*B, n]`` where categorical, else ``[*B, n, d_a]``, one size for all agents."""
    if ACTION not in env.action_keys:
        raise UserError(
            f"wrap_env needs the action {ACTION}, got {sorted(map(str, env.action_keys))}: rename the team's, in the "
            "env or by RenameTransform."
        )
    spec, agents = env.full_action_spec[ACTION], env.observation_spec[OBSERVATION].shape[:-1]
    if isinstance(spec, Stacked) and (-1 in spec.shape or spec.shape[:-1] != agents):
        raise UserError(
            f"wrap_env expects {ACTION} of one size for all agents, got a stack of different specs {list(spec.shape)}: "
            "one shared actor cannot serve them; give the env actions that all agents have."
        )
    categorical = type(spec) is Categorical  # torchrl's Binary and MultiCategorical are kinds of it, of several numbers
    if (spec.shape if categorical else spec.shape[:-1]) != agents:
        expected = "[*B, n], one index an agent" if categorical else "[*B, n, d_a]"
        raise UserError(
            f"wrap_env expects {ACTION} of a {type(spec).__name__} spec as {expected}, where *B, n is {list(agents)}, "
            f"got {list(spec.shape)}: reshape it, in the env's spec too."
        )


def check_masks(env: EnvBase, no_op: int | None) -> None:
    """Refuses masks that are not bool, and an active mask that is not ``[*B, n, 1]``."""
    spec = env.observation_spec
    keys = spec.keys(True, True)
    alive = ACTIVE_MASK if ACTIVE_MASK in keys or no_op is not None else ALIVE
    for key in (alive, ACTION_MASK):
        if key in keys and spec[key].dtype != torch.bool:  # integers would choose rows, floats weigh them
            raise UserError(
                f"wrap_env expects {key} as torch.bool, got {spec[key].dtype}: make it bool, in the env's spec too."
            )
    expected = (*spec[OBSERVATION].shape[:-1], 1)
    if ACTIVE_MASK in keys and spec[ACTIVE_MASK].shape != expected:
        raise UserError(
            f"wrap_env expects {ACTIVE_MASK} of shape {list(expected)}, one number an agent, got "
            f"{list(spec[ACTIVE_MASK].shape)}: unsqueeze it, or call it {ALIVE}."
        )
