"""smacv2's game with less work for the same numbers. Imports smacv2: import it late."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any

from smacv2.env.starcraft2.starcraft2 import StarCraft2Env


class LeanGame(StarCraft2Env):
    """smacv2's game, which does once what it does several times in a step.

    - An agent's legal actions, four times in smacv2: they depend on the units as they were last read and, with
      ``conic_fov``, on where the agent looks, which changes between the check of its action and the next reading.
    - The units' new readings are looked up by tag, not searched for, and of the readings before only those are copied
      that are written to.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._legal: dict[int, list[int]] = {}
        super().__init__(**kwargs)

    def init_units(self, *args: Any, **kwargs: Any) -> None:
        self._legal.clear()
        super().init_units(*args, **kwargs)

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        if agent_id not in self._legal:
            self._legal[agent_id] = super().get_avail_agent_actions(agent_id)
        return list(self._legal[agent_id])

    def get_true_avail_agent_actions(self, agent_id: int) -> list[int]:
        if self.action_mask:  # smacv2's two functions differ where there is no mask
            return self.get_avail_agent_actions(agent_id)
        return super().get_true_avail_agent_actions(agent_id)

    def update_units(self) -> int | None:
        """Takes the units from the last observation; 1 where the battle is won, -1 lost, 0 neither, None goes on."""
        self._legal.clear()
        present = {unit.tag: unit for unit in self._obs.observation.raw_data.units}
        self.previous_ally_units, allies = _update(self.agents, present)
        self.previous_enemy_units, enemies = _update(self.enemies, present)
        if (enemies and not allies) or self.only_medivac_left(ally=True):
            return -1
        if (allies and not enemies) or self.only_medivac_left(ally=False):
            return 1
        return None if allies or enemies else 0


def _update(units: dict[int, Any], present: dict[int, Any]) -> tuple[dict[int, Any], int]:
    """Puts the new reading of each unit into ``units``; returns the readings before, and how many units live."""
    before, alive = copy(units), 0
    for index, unit in before.items():
        if unit.tag in present:
            units[index] = present[unit.tag]
            alive += 1
        else:
            before[index] = deepcopy(unit)
            unit.health = 0  # how smacv2 marks the dead
    return before, alive
