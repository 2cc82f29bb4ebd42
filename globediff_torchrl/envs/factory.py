"""One factory for all environments, and the way in for environments of other kinds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torchrl.envs import Compose, DTypeCastTransform, EnvBase, RewardSum, StepCounter, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase

from globediff_torchrl.envs.auxiliary import AuxObservation
from globediff_torchrl.envs.families import FAMILIES, check_name, default_num_envs
from globediff_torchrl.envs.grouping import RenameGroup
from globediff_torchrl.envs.hiding import resolve_hidden
from globediff_torchrl.envs.legal import transformed_env_for
from globediff_torchrl.envs.lifting import lift_observation
from globediff_torchrl.envs.requirements import ALIVE, check_actions, check_fresh, check_keys, check_masks
from globediff_torchrl.envs.transforms import ActiveMask, AgentId, HideFeatures, LastAction, TimeFraction
from globediff_torchrl.errors import UserError, check_count, check_device, check_seed, unknown
from globediff_torchrl.keys import (
    ACTION,
    ACTIVE_MASK,
    AGENTS,
    AUX_OBSERVATION,
    EPISODE_REWARD,
    OBSERVATION,
    REWARD,
    STATE,
    TARGET_STATE,
)
from globediff_torchrl.layout import FeatureLayout
from globediff_torchrl.task import AUX_KINDS, Task

READ_AS_FLOAT = (OBSERVATION, STATE, TARGET_STATE, REWARD)


def make_env(
    name: str,
    num_envs: int | None = None,
    aux: str | None = "default",
    hide: str | Sequence[str] | None = "default",
    history: int = 3,
    seed: int | None = 0,
    device: torch.device | str = "cpu",
    max_steps: int | str | None = "default",
    **kwargs,
) -> TransformedEnv:
    """An environment with the keys of :mod:`globediff_torchrl.keys` and a :class:`Task` at ``env.task``.

    Args:
        name: ``"vmas/<preset or stock scenario>"``, ``"smax/<scenario>"``, ``"smac/<SMACv1's map>"`` or
            ``"smacv2/<race>_<n>_vs_<m>"`` (zerg, protoss or terran, any n and m); :func:`available_envs` lists them.
        num_envs: how many environments are simulated at once, ``B``: by default 32, in SMAC one, as each has a process
            and a StarCraft II of its own.
        aux: what x is: ``"history"`` (Eq. 1), ``"joint"`` (Eq. 2), ``"joint_history"``, None for no x; by default the
            preset's, of SMACv2's maps the joint observation, elsewhere the history.
        hide: patterns over the observation's feature names, e.g. ``["target.offset"]`` or ``["agent_0.line.*"]``;
            by default the preset's, for VMAS's stock scenarios none, in SMAX and SMAC each enemy's health, shield and
            type; None hides nothing.
        history: m of Eq. 1, how many earlier frames.
        seed: of the simulator; None goes on with the random stream that is there. Copies in other processes
            (ParallelEnv) that are made with one seed play the same episodes: give each its own, or call ``set_seed`` on
            the whole.
        device: of the tensors, and of VMAS's simulator; battles are played on the CPU.
        max_steps: time limit; ends an episode as ``truncated``. By default the preset's, for VMAS's stock scenarios
            100, in SMAX 101, in SMAC the map's; None for no limit.
        kwargs: of the family. VMAS: ``continuous_actions`` (True; otherwise categorical ones), and keyword arguments
            of the scenario, which go before the preset's. SMAX: those of :class:`~globediff_torchrl.envs.smax.SmaxEnv`:
            ``sight_range``, ``enemy_types``, ``state_target``, ... SMAC: those of
            :class:`~globediff_torchrl.envs.smac.SmacEnv` (``configuration``, ``behaviour``, ``sight_range``, ...), of
            :class:`~globediff_torchrl.envs.processes.guard.GuardedEnv` (``step_timeout``, ``reset_timeout``,
            ``retries``, ``restart_every``), and of smacv2's ``StarCraft2Env``.

    Raises:
        UserError: for unknown names (the message lists the known ones), scenarios that cannot be served, and what is
            not installed.

    Example:
        >>> env = make_env("vmas/hunt", num_envs=32, seed=0)
        >>> env.rollout(60, break_when_any_done=False)["agents", "aux_observation"].shape
        torch.Size([32, 60, 2, 58])
    """
    check_name(name)
    family, _, short = name.partition("/")
    num_envs = default_num_envs(family) if num_envs is None else num_envs
    num_envs = check_count("num_envs", num_envs, "leave it away for the default")
    if max_steps is not None and max_steps != "default":
        max_steps = check_count("max_steps", max_steps, "leave it away for the preset's, None is no limit")
    check_device(device)
    base = FAMILIES[family](short, max_steps, num_envs=num_envs, seed=check_seed(seed), device=device, **kwargs)
    return wrap_env(
        base.env,
        name=name,
        aux=base.aux if aux == "default" else aux,
        hide=base.hide if isinstance(hide, str) and hide == "default" else hide,
        history=history,
        max_steps=base.max_steps,
        description=base.description,
        ends_early=base.ends_early,
        code=base.code,
    )


def wrap_env(
    env: EnvBase,
    *,
    state_layout: FeatureLayout | None = None,
    observation_layout: FeatureLayout | None = None,
    aux: str | None = "history",
    hide: str | Sequence[str] | None = None,
    history: int = 3,
    max_steps: int | None = None,
    group: str = "agents",
    no_op: int | None = None,
    name: str | None = None,
    description: str = "",
    target_layout: FeatureLayout | None = None,
    ends_early: bool = False,
    code: str | None = None,
) -> TransformedEnv:
    """Any TorchRL environment with observations by group and a root ``"state"``, in this project's keys.

    Reads ``(group, "observation")`` ``[*B, n, d_o]``, ``(group, "action")``, ``(group, "reward")`` ``[*B, n, 1]``, of a
    team's one reward a copy for each agent, ``"state"`` ``[*B, d_s]``, and the team's ``"done"`` ``[*B, 1]``.
    A dictionary of one tensor, and an ``"action_mask"`` if there is one, as the observation counts as that tensor.
    Where there is ``(group, "action_mask")``, ``rand_action`` and a rollout without a policy draw legal actions.
    Masks are bool. Observation, state and reward (and ``("agents", "target_state")``) of another dtype, such as numpy's
    float64, come out as float32.

    Args:
        env: the environment.
        state_layout, observation_layout: what the numbers are; by default the environment's attributes of these names,
            or numbered features where it has none.
        aux, hide, history, max_steps: as in :func:`make_env`.
        group: the team's key in ``env``; everything is renamed to ``"agents"``.
        no_op: index of the action that only the dead may take, see :class:`ActiveMask`; not needed where the
            environment gives ``("agents", "active_mask")`` ``[*B, n, 1]`` itself, or ``(group, "mask")``, as TorchRL
            does of PettingZoo's agents.
        target_layout: what the numbers of ``("agents", "target_state")`` are; by default the environment's attribute.
        name, description, ends_early, code: for the :class:`Task`; the name is by default the class's.
            An environment whose target is the same for all agents has an attribute ``target_shared = True``.

    Raises:
        UserError: where the environment has been wrapped before, the group, the state, the agents' reward or the
            team's ``"done"`` is missing, an observation, state, layout, mask or reward has another shape, or a mask
            another dtype; a ``max_steps`` that is no whole number above 0.
    """
    _check_aux(aux)
    if max_steps is not None:
        max_steps = check_count("max_steps", max_steps, "None is no limit")
    check_fresh(env)
    innermost = _innermost(env)
    env = _rename_group(env, group)
    check_keys(env, aux)
    check_actions(env)
    check_masks(env, no_op)
    observed, state = env.observation_spec[OBSERVATION], env.observation_spec[STATE]
    n_agents = observed.shape[-2]
    observation_layout = observation_layout or _own(innermost, "observation_layout")
    observation_layout = _checked(observation_layout, observed.shape[-1], "observation", "agent")
    state_layout = _checked(state_layout or _own(innermost, "state_layout"), state.shape[-1], "state", "state")
    target_layout = target_layout or _own(innermost, "target_layout")
    _check_target(env, target_layout)
    hidden, visible = resolve_hidden(hide, observation_layout, n_agents)

    specs = {**dict(env.observation_spec.items(True, True)), REWARD: env.full_reward_spec[REWARD]}
    other = {key: specs[key].dtype for key in READ_AS_FLOAT if key in specs and specs[key].dtype != torch.float32}
    transforms = [DTypeCastTransform(dtype, torch.float32, [key]) for key, dtype in other.items()]
    transforms += [HideFeatures(visible, hidden)] if hidden else []
    transforms += [LastAction(env.full_action_spec[ACTION]), AgentId()]
    transforms += _activity(env, no_op)
    if aux is not None:
        transforms.append(_auxiliary(aux, history, visible))
    # an environment with a time limit of its own says itself when it was that which ended an episode
    counter = StepCounter(None if _own(innermost, "own_time_limit") else max_steps)
    transforms += [counter, TimeFraction(max_steps), RewardSum(in_keys=[REWARD], out_keys=[EPISODE_REWARD])]
    # nested, not merged: behind a renaming transform the actions would have gone by their old name
    wrapped = transformed_env_for(env)(env, Compose(*transforms), auto_unwrap=False)
    wrapped.base_env.task = Task(
        name=name or _class_name(innermost),
        n_agents=n_agents,
        observation_layout=observation_layout,
        state_layout=state_layout,
        hidden=hidden,
        aux=aux,
        aux_dim=0 if aux is None else wrapped.observation_spec[AUX_OBSERVATION].shape[-1],
        max_steps=max_steps,
        description=description,
        target_layout=target_layout,
        target_shared=bool(_own(innermost, "target_shared")),
        ends_early=ends_early,
        code=code,
    )
    return wrapped


def _check_aux(aux: str | None) -> None:
    if aux is not None and aux not in AUX_KINDS:
        raise unknown("aux", aux, [*AUX_KINDS, None])


def _auxiliary(aux: str, history: int, visible: torch.Tensor) -> AuxObservation:
    """The transform that makes x; what is hidden from everybody is a constant zero, and of no use in it."""
    columns = visible.any(dim=0)
    return AuxObservation(
        history=history if "history" in aux else 0,
        join="joint" in aux,
        columns=None if columns.all() else columns.nonzero().flatten(),
    )


def _activity(env: EnvBase, no_op: int | None) -> list[ActiveMask]:
    """The transform that says who is alive; none where the environment does."""
    keys = env.observation_spec.keys(True, True)
    if ACTIVE_MASK in keys:
        return []
    return [ActiveMask(no_op, alive_key=ALIVE if no_op is None and ALIVE in keys else None)]


def _innermost(env: EnvBase) -> EnvBase:
    """The environment under transforms that the caller has put around it."""
    while type(env) is TransformedEnv:
        env = env.base_env
    return env


def _own(env: EnvBase, name: str) -> Any:
    """An attribute that the environment has itself; batched ones would ask worker processes that have not begun."""
    return vars(env).get(name) if isinstance(env, BatchedEnvBase) else getattr(env, name, None)


def _class_name(env: EnvBase) -> str:
    """The class of an environment; of one in several copies, where TorchRL has noted how it is written."""
    written = vars(env).get("_dummy_env_str") if isinstance(env, BatchedEnvBase) else None
    # as TransformedEnv(env=Beacon(...), ...): the last of those that stand around one another
    inside = re.match(r"(?:TransformedEnv\(\s*env=)*(\w+)\(", written or "")
    return inside[1] if inside else type(env).__name__


def _rename_group(env: EnvBase, group: str) -> EnvBase:
    """The environment with every key under ``group`` moved to ``"agents"``, and an observation that is one tensor."""
    groups = {key[0] for key in env.full_action_spec.keys(True, True) if isinstance(key, tuple)}
    if group not in groups:
        fix = "Pass " + " or ".join(f"group={name!r}" for name in sorted(groups))
        fix = fix if groups else "wrap_env expects actions under a group, such as ('agents', 'action')"
        raise UserError(f"{unknown('group', group, sorted(groups))} {fix}.")
    env = lift_observation(env, group)
    if group == AGENTS:
        return env
    return TransformedEnv(env, RenameGroup(env, group, AGENTS))


def _check_target(env: EnvBase, layout: FeatureLayout | None) -> None:
    if layout is None:
        return
    if TARGET_STATE not in env.observation_spec.keys(True, True):
        raise UserError(
            f"target_layout expects {TARGET_STATE!r} [*B, n, {layout.size}] among the environment's observations, got "
            f"{sorted(map(str, env.observation_spec.keys(True, True)))}: write it, or leave the layout away."
        )
    _checked(layout, env.observation_spec[TARGET_STATE].shape[-1], "target", "target")


def _checked(layout: FeatureLayout | None, size: int, what: str, entity: str) -> FeatureLayout:
    if layout is None:
        return FeatureLayout.numbered(size, entity)
    if layout.size != size:
        raise UserError(f"The {what} layout describes {layout.size} numbers, but the environment's {what} has {size}.")
    return layout
