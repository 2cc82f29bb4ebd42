"""SMAC: StarCraft II's battles through smacv2 as a TorchRL environment; importing it does not import smacv2."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.tensor_specs import Categorical, Composite, Unbounded
from torchrl.envs.libs.smacv2 import SMACv2Env

from globediff_torchrl.envs.legal import LegalRandomActions, action_indices
from globediff_torchrl.envs.smac.install import check_installed
from globediff_torchrl.envs.smac.layouts import observation_layout, state_layout
from globediff_torchrl.envs.smac.maps import check_options, is_generated, options, read_options, smac_map
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.keys import AGENTS, DONE, STATE, SUCCESS, TERMINATED, TRUNCATED
from globediff_torchrl.layout import FeatureLayout

BEHAVIOURS = ("mended", "upstream")
TIME_LIMITS = ("truncated", "terminated")
NO_OP = 0  # the action of the dead, and of nobody else
NO_LIMIT = 2**31 - 1


class SmacEnv(LegalRandomActions, SMACv2Env):
    """One battle of smacv2's in StarCraft II, of batch size ``[]``.

    Reads ``("agents", "action")`` ``[n]`` (0: nothing, for the dead; 1: stop; 2 to 5: move north, south, east, west;
    then one for each enemy or, of a medivac, for each ally). Writes ``("agents", "observation")`` ``[n, d_o]``,
    ``("agents", "action_mask")`` ``[n, A]``, ``("agents", "active_mask")`` ``[n, 1]`` (alive), ``("agents", "reward")``
    ``[n, 1]`` (the team's; a won battle gives 20 in all), ``"state"`` ``[d_s]``, ``"success"`` ``[1]`` (won),
    ``"terminated"``, ``"truncated"`` (the time limit alone) and ``"done"`` ``[1]``. Under ``"next"`` the state of an
    episode's last step is the true last one.

    The engine is launched by the first reset, not before.

    Args:
        name: of a map, ``"3m"`` or ``"zerg_5_vs_5"``.
        configuration: ``"official"`` or ``"paper"``, see :func:`~globediff_torchrl.envs.smac.maps.options`.
        behaviour: ``"mended"``, or ``"upstream"`` for smacv2's own reward scale, ally types and blanked enemy rows.
        sight_range: of every unit, on a map 32 wide; None for smacv2's own: 9, with unit ranges each type's, 8 to 11.
            It also scales the distances that are observed; the shooting range stays.
        fix_enemy_visibility: True: each enemy's row depends on that enemy alone, as in SMACv1, in SMACv2's published
            results and in the MAPPO reference. False: smacv2 blanks the rows before an unseen enemy's (its issue 50).
            None follows ``behaviour``: True with mended, False with upstream.
        time_limit: what the last step of a battle that nobody won is: ``"truncated"``, or ``"terminated"`` as in the
            reference.
        max_steps: the time limit; ``"default"`` is the map's, None is none.
        seed: of the engine, the drawn teams and places, and smacv2's shuffles; None for none.
        engine_timeout: seconds within which StarCraft II must come up, and answer each request.
        device: of the tensors.
        kwargs: further ones of smacv2's ``StarCraft2Env``. Entries of ``capability_config`` go before the map's.

    Raises:
        UserError: smacv2, pysc2, StarCraft II or its maps are missing; an unknown map or argument.
    """

    own_time_limit = True

    def __init__(
        self,
        name: str,
        configuration: str = "official",
        behaviour: str = "mended",
        sight_range: float | None = None,
        fix_enemy_visibility: bool | None = None,
        time_limit: str = "truncated",
        max_steps: int | str | None = "default",
        seed: int | None = 0,
        engine_timeout: float = 120.0,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        game = smac_map(name)
        arguments = options(game, configuration)
        _check(behaviour, time_limit, sight_range)
        fix = sees_each_enemy(fix_enemy_visibility, behaviour)
        check_installed(game.file)
        _check_kwargs(kwargs)
        kwargs = read_options(kwargs)
        if "capability_config" in kwargs:
            given = {**kwargs.pop("capability_config"), "n_units": game.agents, "n_enemies": game.enemies}
            kwargs["capability_config"] = {**arguments.get("capability_config", {}), **given}
        self.time_limit, self.max_steps = time_limit, game.limit if max_steps == "default" else max_steps
        super().__init__(
            map_name=game.map_name,
            seed=seed,
            device=device,
            mended=behaviour == "mended",
            sight_range=sight_range,
            fix_enemy_visibility=fix,
            timeout=engine_timeout,
            continuing_episode=True,  # says which episodes the limit ended
            **{**arguments, **kwargs},
        )
        configured = configuration if is_generated(name) else None
        self.says = _says(configured, behaviour, sight_range, fix, time_limit)

    def _build_env(self, map_name: str, **kwargs: Any) -> Any:
        from globediff_torchrl.envs.smac.game import Game

        game = Game(map_name=map_name, **kwargs)
        game.episode_limit = NO_LIMIT if self.max_steps is None else self.max_steps
        return game

    def _make_specs(self, env: Any) -> None:
        n, actions = env.n_agents, env.n_actions
        self.group_map = {AGENTS: [str(i) for i in range(n)]}
        self.observation_layout: FeatureLayout = observation_layout(env.get_obs_feature_names())
        self.state_layout: FeatureLayout = state_layout(env.get_state_feature_names())
        for layout, size in ((self.observation_layout, env.get_obs_size()), (self.state_layout, env.get_state_size())):
            if layout.size != size:
                raise UserError(f"smacv2 names {layout.size} numbers and gives {size}: is it version 1.0.0?")
        agents = {
            "observation": Unbounded((n, self.observation_layout.size)),
            "action_mask": Categorical(2, (n, actions), dtype=torch.bool),
            "active_mask": Categorical(2, (n, 1), dtype=torch.bool),
        }
        flag = {name: Categorical(2, (1,), dtype=torch.bool) for name in (DONE, TERMINATED, TRUNCATED)}
        state = Unbounded((self.state_layout.size,))
        root = {AGENTS: Composite(agents, shape=(n,)), STATE: state, SUCCESS: flag[DONE].clone()}
        action = Composite({"action": Categorical(actions, (n,))}, shape=(n,))
        reward = Composite({"reward": Unbounded((n, 1))}, shape=(n,))
        self.observation_spec = Composite(root).to(self.device)
        self.action_spec = Composite({AGENTS: action}).to(self.device)
        self.reward_spec = Composite({AGENTS: reward}).to(self.device)
        self.done_spec = Composite(flag).to(self.device)

    def _init_env(self) -> None:
        """Nothing: TorchRL would reset here, which launches the engine."""

    def _set_seed(self, seed: int | None) -> None:
        self._env.set_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDict:
        with self._env.own_streams():
            observations, state = self._env.reset()
        return self._pack(observations, state)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        actions = action_indices(self, tensordict).tolist()
        for agent, action in enumerate(actions):
            if not self._mask[agent, action]:
                legal = self._mask[agent].nonzero()[0].tolist()
                raise UserError(
                    f"agent {agent} cannot take action {action}, expected one of {legal}: sample actions with "
                    '("agents", "action_mask").'
                )
        with self._env.own_streams():
            reward, ended, info = self._env.step(actions)
            observations = self._env.get_obs()
        over = bool(ended) and bool(info.get("episode_limit", False))
        return self._pack(
            observations,
            self._env.get_state(),
            reward=float(reward),
            terminated=bool(ended) and not (over and self.time_limit == "truncated"),
            truncated=over and self.time_limit == "truncated",
            success=bool(info.get("battle_won", False)),
        )

    def _pack(
        self,
        observations: list[np.ndarray],
        state: np.ndarray,
        reward: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
        success: bool = False,
    ) -> TensorDict:
        self._mask = np.array(self._env.get_avail_actions(), dtype=bool)
        mask = torch.from_numpy(self._mask.copy())
        agents = {
            "observation": torch.from_numpy(np.array(observations, dtype=np.float32)),
            "action_mask": mask,
            "active_mask": ~mask[:, NO_OP : NO_OP + 1],
        }
        if reward is not None:
            agents["reward"] = torch.full((len(observations), 1), reward)
        flags = {TERMINATED: terminated, TRUNCATED: truncated, DONE: terminated or truncated, SUCCESS: success}
        root: dict[str, Tensor] = {key: torch.full((1,), value) for key, value in flags.items()}
        root[STATE] = torch.from_numpy(np.array(state, dtype=np.float32))
        team = TensorDict(agents, [len(observations)], device=self.device)
        return TensorDict({**root, AGENTS: team}, [], device=self.device)

    def kill(self) -> None:
        """End StarCraft II at once, from any thread; a step that waits for it raises."""
        self._env.kill()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close StarCraft II; a second time does nothing."""
        if not self.is_closed:
            self.is_closed = True
            self._env.close()


def sees_each_enemy(fix_enemy_visibility: bool | None, behaviour: str) -> bool:
    """Whether an enemy's row depends on that enemy alone: as asked, or, for None, as ``behaviour`` has it."""
    return behaviour == "mended" if fix_enemy_visibility is None else fix_enemy_visibility


def _says(configuration: str | None, behaviour: str, sight: float | None, fix: bool, time_limit: str) -> list[str]:
    """What a run prints: how the map is configured (None: there is one way only), and what no seed fixes."""
    says = [] if configuration is None else [f"configuration {configuration}"]
    says += [f"behaviour {behaviour}", f"the time limit is {time_limit}"]
    says += [] if sight is None else [f"sight {sight:g}"]
    says.append(f"enemy rows {'as in SMACv1' if fix else 'blanked as in smacv2 (issue 50)'}")
    return says + ["not fixed by the seed: what StarCraft II draws beyond its random_seed"]


def _check(behaviour: str, time_limit: str, sight_range: float | None) -> None:
    if behaviour not in BEHAVIOURS:
        raise unknown("behaviour", behaviour, BEHAVIOURS)
    if time_limit not in TIME_LIMITS:
        raise unknown("time_limit", time_limit, TIME_LIMITS)
    if sight_range is not None and not sight_range > 0:
        raise UserError(f"sight_range must be a distance above 0 in map units (the map is 32 wide), got {sight_range}.")


def _check_kwargs(kwargs: dict[str, Any]) -> None:
    from smacv2.env.starcraft2.starcraft2 import StarCraft2Env

    check_options(kwargs, set(inspect.signature(StarCraft2Env.__init__).parameters))
