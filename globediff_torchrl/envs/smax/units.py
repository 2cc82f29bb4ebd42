"""jaxmarl's SMAX with a faster collision rule, and with enemies whose types are their own. Imports jax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxmarl.environments.smax.distributions import UniformUnitTypeDistribution
from jaxmarl.environments.smax.heuristic_enemy import create_heuristic_policy
from jaxmarl.environments.smax.heuristic_enemy_smax_env import HeuristicEnemySMAX
from jaxmarl.environments.smax.smax_env import SMAX, State


class ScalarPush(SMAX):
    """SMAX whose units push each other away on separate x and y arrays.

    The same formula as jaxmarl's: on the CPU, arrays whose last axis is the pair (x, y) are slow. The sums are taken
    in another order, which changes positions by some 1e-6 map units.
    """

    def _push_units_away(self, state: State, firmness: float = 1.0) -> State:
        alive = state.unit_alive
        x, y = state.unit_positions[:, 0], state.unit_positions[:, 1]
        radius = jax.nn.one_hot(state.unit_types, self.unit_type_bits) @ self.unit_type_radiuses
        dx, dy = x[:, None] - x[None, :], y[:, None] - y[None, :]
        distance = jnp.sqrt(dx * dx + dy * dy) + jnp.identity(self.num_agents) + 1e-6
        overlap = jax.nn.relu((radius[:, None] + radius[None, :]) / distance - 1.0)
        overlap = jnp.where(alive[:, None] & alive[None, :], overlap, 0.0)
        pushed_x = x + firmness * jnp.sum(dx * overlap, axis=1) / 2
        pushed_y = y + firmness * jnp.sum(dy * overlap, axis=1) / 2
        positions = jnp.stack([jnp.where(alive, pushed_x, x), jnp.where(alive, pushed_y, y)], axis=-1)
        return state.replace(unit_positions=positions)


class IndependentTypes(UniformUnitTypeDistribution):
    """Every unit's type drawn by itself. jaxmarl's enemies have the types of the allies, slot by slot."""

    def generate(self, key: jax.Array) -> jax.Array:
        """Types ``[allies + enemies]`` (uint8)."""
        return jax.random.randint(key, (self.n_allies + self.n_enemies,), 0, self.n_unit_types).astype(jnp.uint8)


class Units(HeuristicEnemySMAX):
    """jaxmarl's environment for one team, against its heuristic, with our simulator in it.

    Args:
        fast_push: :class:`ScalarPush` instead of jaxmarl's rule.
        independent: :class:`IndependentTypes` instead of mirrored ones.
        kwargs: those of ``HeuristicEnemySMAX`` and ``SMAX``.
    """

    def __init__(self, fast_push: bool, independent: bool, **kwargs) -> None:
        super().__init__(**kwargs)
        if fast_push:
            own = {name: value for name, value in kwargs.items() if name not in ("enemy_shoots", "attack_mode")}
            self._env = ScalarPush(**own)
            self.heuristic_policy = create_heuristic_policy(
                self._env, 1, shoot=self.enemy_shoots, attack_mode=self.attack_mode
            )
        if independent:
            sides = (self.num_allies, self.num_enemies, self.map_width, self.map_height)
            self._env.unit_type_generator = IndependentTypes(*sides, self.unit_type_bits)
