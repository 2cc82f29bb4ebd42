"""Evaluation on whole episodes: return, success, and how far the inferred state is from the true one."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from tensordict import NestedKey, TensorDictBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import keys
from globediff_torchrl.envs import preserve_vmas_rng
from globediff_torchrl.envs.processes.crashed import crashed_steps
from globediff_torchrl.errors import UserError, check_count, check_seed
from globediff_torchrl.evaluation.relative_error import RelativeError
from globediff_torchrl.policies import add_memory
from globediff_torchrl.random_streams import preserve_rng
from globediff_torchrl.task import task_of

MODES = {"deterministic": ExplorationType.DETERMINISTIC, "stochastic": ExplorationType.RANDOM}


def first_episodes(rollout: TensorDictBase) -> torch.Tensor:
    """Mask ``[B, T]`` of the steps up to and including the first end of an episode in each environment."""
    done = rollout.get(("next", keys.DONE)).squeeze(-1)
    ended_before = done.long().cumsum(-1) - done.long()
    return ended_before == 0


@torch.no_grad()
def state_errors(
    rollout: TensorDictBase, mask: torch.Tensor | None = None, target: NestedKey = keys.STATE
) -> dict[str, float]:
    """Mean squared error of what was inferred, as a share of the mean predictor's; 0 is perfect, 1 is no better
    than always answering the mean state of this rollout.

    The error is averaged over living agents, steps and the dimensions of the state that vary, each in units of its
    variance.
    An exact posterior sample scores twice what the posterior mean does (its R2 is twice that of the mean, less 1).

    Returns:
        ``state_error_sample`` for ``inferred_state`` and ``state_error_mean`` for ``inferred_mean``, where present.
    """
    errors: dict[str, RelativeError] = defaultdict(RelativeError)
    _add_errors(errors, rollout, mask, target)
    return _shares(errors)


def _add_errors(
    errors: dict[str, RelativeError], rollout: TensorDictBase, mask: torch.Tensor | None, target: NestedKey
) -> None:
    mask = torch.ones(rollout.batch_size, dtype=torch.bool) if mask is None else mask
    state = rollout.get(target)[mask]
    state = state if state.ndim == 3 else state.unsqueeze(-2)  # the same for all agents
    active = rollout.get(keys.ACTIVE_MASK, None)
    active = None if active is None else active[mask]
    for name, key in (("sample", keys.INFERRED_STATE), ("mean", keys.INFERRED_MEAN)):
        if key in rollout.keys(True, True):
            errors[f"state_error_{name}"].add(rollout.get(key)[mask], state, active)


def _shares(errors: dict[str, RelativeError]) -> dict[str, float]:
    shares = {name: error.value() for name, error in errors.items()}
    return {name: share for name, share in shares.items() if share is not None}


def _counted(rollout: TensorDictBase) -> torch.Tensor:
    """Mask ``[B, T]`` of the first episodes that no crash ended."""
    mask = first_episodes(rollout)
    if ("next", keys.CRASHED) in rollout.keys(True, True):
        mask = mask & ~crashed_steps(rollout).squeeze(-1)
    return mask


@torch.no_grad()
def run_episodes(
    env: EnvBase, policy: Callable[[TensorDictBase], TensorDictBase], mode: str, seed: int, max_steps: int
) -> TensorDictBase:
    """One rollout ``[B, max_steps]`` under its own seeds; the training's random numbers stay as they are.

    ``B`` counts the environments of all batch dimensions; a single one without any is ``B`` = 1.

    Args:
        env: an environment that is used for evaluation alone.
        policy: what chooses the actions; ``env`` is made to carry its memory, if it has one.
        mode: ``"deterministic"`` (the most probable action, of continuous ones the tanh of the location; a repeatable
            inference) or ``"stochastic"``.
        seed: seed of the environments and of the policy.
        max_steps: length of the rollout; the task's time limit, so that every environment ends an episode.
    """
    if isinstance(policy, nn.Module):
        add_memory(env, policy)
    with preserve_vmas_rng(), preserve_rng(seed), set_exploration_type(MODES[mode]), _evaluating(policy):
        env.set_seed(seed)
        rollout = env.rollout(max_steps, policy, break_when_any_done=False)
    return rollout if rollout.ndim == 2 else rollout.reshape(-1, rollout.shape[-1])


@contextlib.contextmanager
def _evaluating(policy: Callable[[TensorDictBase], TensorDictBase]) -> Iterator[None]:
    """Dropout and the like in evaluation mode, and back to what each module had."""
    training = [part for part in policy.modules() if part.training] if isinstance(policy, nn.Module) else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def episode_metrics(rollout: TensorDictBase) -> dict[str, torch.Tensor]:
    """Per-episode results of the first episode of each environment: ``return`` (mean over agents), ``length``,
    and ``success`` where the task defines it; each ``[E]``, ``E`` = ``B`` without the episodes that ended in a crash
    of the simulator."""
    mask = first_episodes(rollout)
    last = mask.long().sum(-1) - 1
    index = (torch.arange(len(last), device=last.device), last)
    if ("next", keys.CRASHED) in rollout.keys(True, True):
        whole = ~rollout.get(("next", keys.CRASHED))[index].squeeze(-1)
        index, last = (index[0][whole], last[whole]), last[whole]
    metrics = {
        "return": rollout.get(("next", *keys.EPISODE_REWARD))[index].mean((-1, -2)),
        "length": (last + 1).float(),
    }
    if ("next", keys.SUCCESS) in rollout.keys(True, True):
        metrics["success"] = rollout.get(("next", keys.SUCCESS))[index].squeeze(-1).float()
    return metrics


def evaluate(
    env: EnvBase,
    policy: Callable[[TensorDictBase], TensorDictBase],
    *,
    seed: int,
    max_steps: int | None = None,
    modes: tuple[str, ...] = ("deterministic", "stochastic"),
    rounds: int = 1,
) -> dict[str, float]:
    """Mean results over one episode of each environment of ``env`` in each round, for each mode.

    Args:
        env: an environment of ``make_env`` or ``wrap_env`` that is used for evaluation alone.
        policy: what chooses the actions; ``env`` is made to carry its memory, if it has one.
        seed: of environments and policy; one of its own, as the training's would play the training's episodes again.
            The random streams of a training stay as they are.
        max_steps: longest episode; by default the task's time limit, or 100 steps. One that is still going then counts
            as it stands.
        modes: some of :data:`MODES`.
        rounds: so many rollouts, each with its own seed from ``seed`` on: for simulators of which there are few.

    Returns:
        ``<mode>/return``, ``<mode>/return_sem`` (standard error of the mean over episodes), ``<mode>/success``,
        and the errors of :func:`state_errors` over the steps of all rounds; ``<mode>/crashed``, the share of episodes
        that a crash of the simulator took out of all that, where there was one. Without the returns if all have
        crashed.

    Raises:
        UserError: an environment without a task, or several copies (TorchRL's SerialEnv) that have one each; an
            unknown mode, a seed or a number that is none.

    Example:
        >>> env, policy = load_policy("runs/first", num_envs=128)
        >>> evaluate(env, policy, seed=10_000)["deterministic/return"]
    """
    task = task_of(env, "evaluate")
    for mode in [modes] if isinstance(modes, str) else modes:
        if isinstance(modes, str) or mode not in MODES:
            raise UserError(f"modes must be some of {tuple(MODES)} in a tuple, got {modes!r}.")
    rounds = check_count("rounds", rounds, "leave it away for 1")
    max_steps = task.horizon if max_steps is None else check_count("max_steps", max_steps, "leave it away")
    seed = check_seed(seed)
    if seed is None:
        raise UserError("evaluate expects a seed of its own, got None: pass e.g. seed=10_000.")
    results: dict[str, float] = {}
    for mode in modes:
        metrics, errors = defaultdict(list), defaultdict(RelativeError)
        for extra in range(rounds):
            rollout = run_episodes(env, policy, mode, seed + extra, max_steps)
            for name, value in episode_metrics(rollout).items():
                metrics[name].append(value)
            _add_errors(errors, rollout, _counted(rollout), task.target_key)
        found = {name: torch.cat(values) for name, values in metrics.items()}
        results |= {f"{mode}/{name}": value for name, value in _means(found, rounds * len(rollout)).items()}
        results |= {f"{mode}/{name}": value for name, value in _shares(errors).items()}
    return results


def _means(metrics: dict[str, torch.Tensor], episodes: int) -> dict[str, float]:
    returns, results = metrics["return"], {}
    if len(returns) < episodes:
        results["crashed"] = 1 - len(returns) / episodes
    if len(returns):
        results["return"] = float(returns.mean())
        results["return_sem"] = float(returns.std() / len(returns) ** 0.5) if len(returns) > 1 else 0.0
        if "success" in metrics:
            results["success"] = float(metrics["success"].mean())
    return results
