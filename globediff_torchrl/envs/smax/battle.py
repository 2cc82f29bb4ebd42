"""A batch of SMAX battles as two jitted functions, one step and one reset of some of them. Imports jax.

What they take and give has the same types in every call, strong ones on one device: jax would compile anew for a weak
type or an array that is not committed to its device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from jax import Array
from jaxmarl.environments.smax import map_name_to_scenario
from jaxmarl.environments.smax.heuristic_enemy_smax_env import HeuristicEnemySMAX
from jaxmarl.environments.smax.smax_env import SMAX

from globediff_torchrl.envs.smax.layouts import LAST_STEP
from globediff_torchrl.envs.smax.units import Units
from globediff_torchrl.errors import UserError

Tree = Any
CHUNK = 32  # battles reset at once; a call costs a millisecond, whatever their number
SIMULATORS = (HeuristicEnemySMAX, SMAX)  # whose arguments a battle takes


class Readings(NamedTuple):
    """What is read off a battle: observation ``[n, d_o]``, state ``[d_s]``, target ``[n, d_t]`` or ``[n, 0]``,
    action_mask ``[n, A]``, active_mask ``[n, 1]``."""

    observation: Array
    state: Array
    target_state: Array
    action_mask: Array
    active_mask: Array


class Outcome(NamedTuple):
    """How a step went: reward ``[n, 1]``; terminated, truncated, success ``[1]``."""

    reward: Array
    terminated: Array
    truncated: Array
    success: Array


@lru_cache(maxsize=8, typed=True)
def make_battles(**arguments) -> Battles:
    """:class:`Battles`, the same ones for the same arguments: what is compiled for one environment serves the next."""
    return Battles(**arguments)


class Battles:
    """``num_envs`` battles of one scenario; the methods are pure functions of what they are given.

    Args:
        scenario: jaxmarl's name of the map.
        num_envs: ``B``.
        max_steps: the last step of an episode; None for no limit.
        sight_range: of every unit, in map units; None for each type's own.
        independent: see :class:`~globediff_torchrl.envs.smax.units.IndependentTypes`.
        with_target: whether ``Readings.target_state`` is filled.
        fast_push: see :class:`~globediff_torchrl.envs.smax.units.ScalarPush`.
        kwargs: further ones of jaxmarl's environment; a tuple for one that is an array there.
    """

    def __init__(
        self,
        scenario: str,
        num_envs: int,
        max_steps: int | None,
        sight_range: float | None = None,
        independent: bool = False,
        with_target: bool = False,
        fast_push: bool = True,
        **kwargs,
    ) -> None:
        self.device = jax.devices("cpu")[0]
        kwargs = {name: jnp.array(value) if isinstance(value, tuple) else value for name, value in kwargs.items()}
        if sight_range is not None:
            kwargs["unit_type_sight_ranges"] = jnp.full((6,), float(sight_range))
        self.units = Units(
            fast_push,
            independent,
            scenario=map_name_to_scenario(scenario),
            # its limit is reached in the step after this number of steps
            max_steps=(LAST_STEP if max_steps is None else max_steps) - 1,
            **kwargs,
        )
        self.types = self.units.unit_type_bits if self.units.smacv2_unit_type_generation else 0
        self.with_target = with_target
        self.num_envs = num_envs
        self.chunk = min(num_envs, CHUNK)
        self._shapes = jax.eval_shape(self._begin, jax.random.PRNGKey(0))[0]
        self.step = jax.jit(jax.vmap(self._step))
        self.reset = jax.jit(self._reset)
        self.read = jax.jit(jax.vmap(self._read_again))

    def seed(self, seed: int) -> Array:
        """One random key a battle, ``[B, 2]``: the battles of a seed are the same whatever their number."""
        return jax.device_put(jax.random.split(jax.random.PRNGKey(seed), self.num_envs), self.device)

    def empty(self) -> Tree:
        """A state for :meth:`reset` to write into."""
        zeros = jax.tree.map(lambda leaf: jnp.zeros((self.num_envs, *leaf.shape), leaf.dtype), self._shapes)
        return jax.device_put(zeros, self.device)

    def indices(self, chosen: list[int]) -> Array:
        """At most ``chunk`` indices for :meth:`reset`, padded with one that is no battle's."""
        padded = chosen + [self.num_envs] * (self.chunk - len(chosen))
        return jax.device_put(jnp.asarray(padded, dtype=jnp.int32), self.device)

    def actions(self, actions: torch.Tensor) -> Array:
        """The allies' actions ``[B, n]`` (int32, contiguous, not written to again) as jax's."""
        return jax.device_put(jax.dlpack.from_dlpack(actions), self.device)

    def to_tensors(self, keys: Array, state: Tree) -> dict[str, torch.Tensor]:
        """Copies of all arrays by number; unsigned integers, which few tools of torch take, as int64."""
        copies = {}
        for i, leaf in enumerate(jax.tree.leaves((keys, state))):
            tensor = torch.from_dlpack(leaf)
            wide = tensor.dtype in (torch.uint8, torch.uint32)
            copies[str(i)] = tensor.to(torch.int64) if wide else tensor.clone()
        return copies

    def from_tensors(self, tensors: dict[str, torch.Tensor]) -> tuple[Array, Tree]:
        """What :meth:`to_tensors` was given."""
        leaves, tree = jax.tree.flatten((self.seed(0), self.empty()))
        saved = [tensors.get(str(i)) for i in range(len(leaves))]
        for old, new in zip(leaves, saved):
            if new is None or old.shape != tuple(new.shape):
                shape = None if new is None else tuple(new.shape)
                raise UserError(f"The saved battles have shape {shape}, here it is {old.shape}: other arguments?")
        arrays = [jnp.asarray(new.cpu().numpy(), dtype=old.dtype, copy=True) for old, new in zip(leaves, saved)]
        keys, state = jax.tree.unflatten(tree, jax.device_put(arrays, self.device))
        return keys, state

    def _reset(self, keys: Array, state: Tree, index: Array) -> tuple[Array, Tree, Readings]:
        """New battles at ``index [chunk]``; all others stay. The readings are those of the chunk."""
        new_state, new_keys, readings = jax.vmap(self._begin)(keys[index])

        def write(old: Array, new: Array) -> Array:
            return old.at[index].set(new, mode="drop")

        return write(keys, new_keys), jax.tree.map(write, state, new_state), readings

    def _begin(self, key: Array) -> tuple[Tree, Array, Readings]:
        key, reset_key = jax.random.split(key)
        _, state = self.units.reset(reset_key)
        observations = self.units.get_all_unit_obs(state)
        full = (state, self._enemy_view(observations))
        # dtypes made explicit: what jaxmarl makes of Python numbers is weakly typed
        full = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), full)
        return full, key, self._read(state, observations)

    def _step(self, key: Array, full: Tree, actions: Array) -> tuple[Array, Tree, Readings, Outcome]:
        """One step of one battle with the allies' ``actions [n]`` (int32).

        jaxmarl's ``step_env``, but for the enemies' observations, which it computes twice, and which are kept here.
        """
        units, simulator = self.units, self.units._env
        (state, enemy_view) = full
        key, step_key = jax.random.split(key)
        world_key, enemy_key = jax.random.split(step_key)
        moves, policy_state = units.get_enemy_actions(enemy_key, state.enemy_policy_state, enemy_view)
        everybody = jnp.concatenate([actions, jnp.stack([moves[name] for name in units.enemy_agents])])
        decoded = simulator._decode_discrete_actions(everybody)
        observations, world, rewards, _, _ = simulator.step_env_no_decode(world_key, state.state, decoded)
        state = state.replace(state=world, enemy_policy_state=policy_state)
        new = (state, self._enemy_view(observations))
        new = jax.tree.map(lambda leaf, like: jax.lax.convert_element_type(leaf, like.dtype), new, full)
        outcome = self._outcome(world, rewards[units.agents[0]])
        return key, new, self._read(state, observations), outcome

    def _enemy_view(self, observations: dict[str, Array]) -> Array:
        return jnp.stack([observations[name] for name in self.units.enemy_agents])

    def _outcome(self, world: Tree, reward: Array) -> Outcome:
        n = self.units.num_allies
        allies_live, enemies_live = world.unit_alive[:n].any(), world.unit_alive[n:].any()
        terminated = ~(allies_live & enemies_live)
        won = allies_live & ~enemies_live  # none left on either side is a draw
        truncated = world.done & ~terminated
        return Outcome(jnp.full((n, 1), reward, jnp.float32), terminated[None], truncated[None], won[None])

    def _read_again(self, full: Tree) -> Readings:
        """The readings that the step or reset gave which led to this battle; they are no part of what is saved."""
        state, _ = full
        return self._read(state, self.units.get_all_unit_obs(state))

    def _read(self, state: Tree, observations: dict[str, Array]) -> Readings:
        units, world = self.units, state.state
        n = units.num_allies
        masks = units.get_avail_actions(state)
        rows = self._unit_rows(world)
        return Readings(
            observation=jnp.stack([observations[name] for name in units.agents]),
            state=rows.reshape(-1),
            target_state=self._target(rows[n:]),
            action_mask=jnp.stack([masks[name] for name in units.agents]).astype(bool),
            active_mask=world.unit_alive[:n, None],
        )

    def _unit_rows(self, world: Tree) -> Array:
        """``[units, channels]``: health, position, cooldown, then type or a bit for life; zero for the dead.

        Each as a share: of the type's full health, of the map, of the type's cooldown. A weapon that is ready counts
        on below zero, without any effect: it is read as zero.
        """
        units = self.units
        one_hot = jax.nn.one_hot(world.unit_types, units.unit_type_bits)
        full_health, full_cooldown = one_hot @ units.unit_type_health, one_hot @ units.unit_type_weapon_cooldowns
        kind = one_hot if self.types else jnp.ones((units.num_allies + units.num_enemies, 1))
        numbers = [
            (world.unit_health / full_health)[:, None],
            world.unit_positions / jnp.array([units.map_width, units.map_height]),
            (jnp.maximum(world.unit_weapon_cooldowns, 0.0) / full_cooldown)[:, None],
            kind,
        ]
        return jnp.where(world.unit_alive[:, None], jnp.concatenate(numbers, axis=-1), 0.0)

    def _target(self, enemies: Array) -> Array:
        """``[n, d_t]``; the enemies stand in the same slots of every ally's observation."""
        n = self.units.num_allies
        if not self.with_target:
            return jnp.zeros((n, 0))
        health, kind = enemies[:, :1], enemies[:, 4:]
        parts = [health, kind, kind.sum(-1, keepdims=True)] if self.types else [health, kind]
        return jnp.tile(jnp.concatenate(parts, axis=-1).reshape(1, -1), (n, 1))
