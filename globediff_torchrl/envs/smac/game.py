"""smacv2's StarCraft2Env with its faults mended. Imports smacv2 and pysc2: import it late."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, suppress
from copy import deepcopy
from typing import Any

import numpy as np
from pysc2.lib import protocol, remote_controller
from smacv2.env.starcraft2.starcraft2 import CannotResetException

from globediff_torchrl.envs.smac import draws
from globediff_torchrl.envs.smac.lean import LeanGame

GONE_AFTER = 100  # observations within which units that were killed must have disappeared
ATTEMPTS = 3  # at a battle whose units do not come


class EngineError(RuntimeError):
    """StarCraft II died, answered with an error, or does not do what it is asked: this episode is lost."""


class Game(LeanGame):
    """smacv2's game and its capability wrapper in one, mended.

    Args:
        mended: False keeps those faults that change published numbers: the scale of the reward, which follows the
            first battles' enemies and grows with resets before the first finished episode, and the allies' unit types
            on MMM, MMM2, 1c3s5z and bane_vs_bane, which are the same for all of them.
        sight_range: of every unit, in map units; None for smacv2's own.
        fix_enemy_visibility: an enemy that nobody has seen (or not since its finder died, or that is dead where nobody
            sees) blanks its own row of the observation only; in smacv2 also the rows of all enemies before it (smacv2
            issue 50).
        timeout: seconds within which the engine must come up, and answer each request.
        kwargs: those of ``StarCraft2Env``. ``capability_config`` is copied, not changed.
    """

    def __init__(
        self,
        *,
        mended: bool = True,
        sight_range: float | None = None,
        fix_enemy_visibility: bool = True,
        timeout: float = 120.0,
        **kwargs: Any,
    ) -> None:
        self.mended, self.sight_range, self.fix_enemy_visibility = mended, sight_range, fix_enemy_visibility
        self.timeout = timeout
        self._types_of = None  # the engine whose unit types are known
        self._new_game = True  # the next reset needs a new game, as the seed is another one
        config = deepcopy(kwargs.pop("capability_config", None) or {})
        self._distributions = draws.make_distributions(config)
        super().__init__(capability_config=config, **kwargs)
        self._least_reward = self.max_reward  # without the enemies' health
        self.set_seed(self._seed)

    # ---- random numbers

    def set_seed(self, seed: int | None) -> None:
        """Seed the engine (in a new game at the next reset), the drawn teams and places, and every shuffle."""
        self._seed = seed
        self._new_game = True
        sequence = np.random.SeedSequence(seed)
        for distribution in self._distributions:
            draws.seed_distribution(distribution, sequence)
        self._attack = np.random.default_rng(draws.child(sequence))
        self._streams = draws.Streams(sequence)

    def own_streams(self) -> AbstractContextManager:
        """A block in which ``random`` and numpy's global stream, from which smacv2 draws, are this game's own."""
        return self._streams.installed()

    # ---- the engine

    def _launch(self) -> None:
        """A new game, in the engine that runs if there is one; without need for one, a new battle in the same game."""
        running = self._sc2_proc is not None
        if running and not self._new_game:
            return self._restart()
        try:
            super()._launch()
        except (protocol.ProtocolError, protocol.ConnectionError, remote_controller.RequestError):
            if not running:
                raise
            self._close_engine()  # it took no second game: a new engine will
            super()._launch()
        self._new_game = False

    @property
    def _run_config(self) -> Any:
        return self.__dict__.get("_config")

    @_run_config.setter
    def _run_config(self, config: Any) -> None:
        # smacv2 makes one at each launch and calls its start()
        if config is not None:
            self._launch_engine, config.start = config.start, self._start
        self.__dict__["_config"] = config

    def _start(self, **kwargs: Any) -> Any:
        if self._sc2_proc is not None:
            try:
                self._controller.leave()
                return self._sc2_proc
            except (protocol.ProtocolError, protocol.ConnectionError):
                self._close_engine()
        return self._launch_engine(timeout_seconds=max(1, round(self.timeout)), **kwargs)

    def full_restart(self) -> None:
        """A new engine with a new game, and its first observation, which smacv2 forgets.

        Raises:
            EngineError: when smacv2 calls it because the engine was lost; an episode does not go on in another one.
        """
        error = sys.exc_info()[1]
        if isinstance(error, (protocol.ProtocolError, protocol.ConnectionError)):
            self.kill()
            self._close_engine()
            raise EngineError(f"StarCraft II is lost: {error}") from error
        self._close_engine()
        self._new_game = True
        self._launch()
        self._obs = self._controller.observe()
        self.force_restarts += 1

    def kill(self) -> None:
        """End the engine at once, from any thread; whoever waits for its answer gets an exception."""
        engine = self._sc2_proc
        pid = None if engine is None else engine.pid
        if pid:
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the engine, also one that no longer answers; a second time does nothing."""
        self._close_engine()
        super().close()  # the window, if there is one
        # smacv2 keeps every game until the process exits: at least without what is large
        self._obs = self.previous_ally_units = self.previous_enemy_units = None
        self.agents, self.enemies = {}, {}

    def _close_engine(self) -> None:
        engine, self._sc2_proc, self._controller = self._sc2_proc, None, None
        if engine is not None:
            with suppress(Exception):  # of an engine that is dead already
                engine.close()

    # ---- a new battle

    def reset(self, episode_config: dict[str, Any] | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """A new battle; teams and places are drawn as ``capability_config`` says.

        Raises:
            EngineError: the engine was lost, or units do not come.
        """
        for _ in range(ATTEMPTS):
            try:
                return super().reset(draws.draw(self._distributions) if episode_config is None else episode_config)
            except CannotResetException as error:  # smacv2's wrapper tries again, and then returns nothing
                failed = error
        raise EngineError(f"no battle begins in {ATTEMPTS} attempts: {failed}") from failed

    def _restart(self) -> None:
        if self._new_game or self._sc2_proc is None:
            return self._launch()
        super()._restart()

    def _kill_all_units(self) -> None:
        """Kill all units and wait until they have gone; on SMACv1's maps also until new ones stand in their places."""
        killed = {unit.tag for unit in self._obs.observation.raw_data.units}
        self._kill_units(list(killed))
        for _ in range(GONE_AFTER):
            self._controller.step(2)
            self._obs = self._controller.observe()
            present = {unit.tag for unit in self._obs.observation.raw_data.units}
            if not killed & present and (present or "10gen_" in self.map_name):
                return
        raise EngineError(f"units that were killed are still there after {2 * GONE_AFTER} game loops")

    def init_units(self, ally_team: list | None, enemy_team: list | None, episode_config: dict | None = None) -> None:
        super().init_units(ally_team, enemy_team, episode_config=episode_config or {})
        if self.mended:
            health = sum(unit.health_max + unit.shield_max for unit in self.enemies.values())
            self.max_reward = self._least_reward + health

    def _init_ally_unit_types(self, min_unit_type: int) -> None:
        generated = "10gen_" in self.map_name
        if generated and self._types_of is self._sc2_proc:
            return  # smacv2 asks the engine for the list of all its types at each reset
        super()._init_ally_unit_types(min_unit_type)
        self._types_of = self._sc2_proc
        if self.map_type == "marines":
            self.marine_id = min_unit_type  # smacv2 adds 4, as on its generated maps
            self.ally_unit_map = {"marine": min_unit_type}
        elif generated:
            self._number_from_the_last()

    def _number_from_the_last(self) -> None:
        """The allies' types are the last ones; smacv2 counts all types, as if no number were left out."""
        shift = max(self._controller.data().units) + 1 - len(self.ally_unit_map) - self._min_unit_type
        self._min_unit_type += shift
        for name in self.ally_unit_map:
            self.ally_unit_map[name] += shift
            setattr(self, f"{name}_id", self.ally_unit_map[name])

    # ---- what agents see and do

    def get_unit_type_id(self, unit: Any, ally: bool) -> int:
        generated = self.map_type.endswith("_gen")
        if not ally or generated or (not self.mended and self.map_type != "stalkers_and_zealots"):
            return super().get_unit_type_id(unit, ally)
        return unit.unit_type - self._min_unit_type  # smacv2 looks allies up among the enemies' types

    def unit_sight_range(self, agent_id: int) -> float:
        return super().unit_sight_range(agent_id) if self.sight_range is None else self.sight_range

    def get_obs_agent(self, agent_id: int, fully_observable: bool = False) -> np.ndarray:
        if not self.fix_enemy_visibility:
            return super().get_obs_agent(agent_id, fully_observable)
        if self.prob_obs_enemy < 1:
            super().get_obs_agent(agent_id, fully_observable)  # draws who is told of the enemies discovered now
        known = self.obs_enemies[:, agent_id].copy()
        self.obs_enemies[:, agent_id] = 1  # no row is blanked
        observation = super().get_obs_agent(agent_id, fully_observable)
        if self.prob_obs_enemy < 1:
            self.obs_enemies[:, agent_id] = known
            if not fully_observable:
                count, size = self.get_obs_enemy_feats_size()
                start = self.get_obs_move_feats_size()
                rows = observation[start : start + count * size].reshape(count, size)
                rows[known == 0] = 0
        return observation

    def get_agent_action(self, a_id: int, action: int) -> Any:
        if not (self.stochastic_attack and action >= self.n_actions_no_attack):
            return super().get_agent_action(a_id, action)
        if self._attack.random() > self.agent_attack_probabilities[a_id]:
            return None
        self.stochastic_attack = False  # smacv2 would draw from a generator of its own, which has no seed
        try:
            return super().get_agent_action(a_id, action)
        finally:
            self.stochastic_attack = True
