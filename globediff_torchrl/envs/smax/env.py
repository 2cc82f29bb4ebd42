"""SMAX, jaxmarl's battles like StarCraft's, as a TorchRL environment; importing it does not import jax."""

from __future__ import annotations

import inspect
import math
from functools import partial
from numbers import Real
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.tensor_specs import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from globediff_torchrl.envs.legal import LegalRandomActions, action_indices
from globediff_torchrl.envs.smax.jax_setup import load_battles
from globediff_torchrl.envs.smax.layouts import (
    LAST_STEP,
    SCENARIOS,
    STEP_LIMIT,
    UNIT_TYPES,
    observation_layout,
    state_layout,
    target_layout,
)
from globediff_torchrl.errors import UserError, check_count, check_seed, unknown
from globediff_torchrl.keys import (
    ACTION,
    ACTION_MASK,
    ACTIVE_MASK,
    AGENTS,
    DONE,
    OBSERVATION,
    REWARD,
    STATE,
    SUCCESS,
    TARGET_STATE,
    TERMINATED,
    TRUNCATED,
)
from globediff_torchrl.layout import FeatureLayout

ENEMY_TYPES = ("mirrored", "independent")
STATE_TARGETS = ("absolute", "relative")
STOP = 4  # the action that is always legal, and the only one of the dead; 0 to 3 move, 5 + k attacks enemy k
ATTACK_MODES = ("closest", "random")
OURS = ("scenario", "max_steps", "unit_type_sight_ranges", "observation_type", "action_type", "self")
NAMES = ("unit_type_names", "unit_type_shorthands")  # jaxmarl's maps are written in them
SWITCHES = ("enemy_shoots", "see_enemy_actions", "use_self_play_reward", "walls_cause_death")
LENGTHS = ("map_width", "map_height", "time_per_step")
OF_THE_MAP = ("num_allies", "num_enemies", "smacv2_position_generation", "smacv2_unit_type_generation")


class SmaxEnv(LegalRandomActions, EnvBase):
    """A batch of SMAX battles against jaxmarl's heuristic enemy.

    Reads ``("agents", "action")`` ``[B, n]`` (0 to A - 1). Writes ``("agents", "observation")`` ``[B, n, d_o]``,
    ``("agents", "action_mask")`` ``[B, n, A]``, ``("agents", "active_mask")`` ``[B, n, 1]`` (alive),
    ``("agents", "reward")`` ``[B, n, 1]`` (damage done as a share of the enemies' health, and 1 for a win; the dead get
    it too), ``"state"`` ``[B, d_s]`` (every unit's health, position, cooldown and type as shares of 1, but that the
    cooldown reaches about 1.2, as jaxmarl adds a random deviation, and that a few units of ``smacv2_*`` begin a
    little outside the map; zero for the dead), ``"success"`` ``[B, 1]`` (an ally is alive and no enemy),
    ``"terminated"`` (one side is gone), ``"truncated"`` (the time limit alone) and ``"done"`` ``[B, 1]``. Under
    ``"next"`` the state of an episode's last step is the true last one.

    Args:
        scenario: jaxmarl's name of the map, one of :data:`~globediff_torchrl.envs.smax.layouts.SCENARIOS`.
        num_envs: how many battles, ``B``. jax compiles for each number anew (10 to 30 s, kept on disk).
        seed: of all randomness; None draws one from torch's generator.
        device: of the tensors; the simulator runs on the CPU.
        max_steps: the last step of an episode; None for no limit. jaxmarl's own limit is 101.
        sight_range: of every unit, in map units (the map is 32 x 32); None for each type's own, 8 to 10.
        enemy_types: of the ``smacv2_*`` maps. ``"mirrored"``: enemy k has the type of ally k, as in jaxmarl, so that
            the own side tells the other's types; ``"independent"``: each drawn by itself, so that battles are uneven.
        state_target: ``"relative"`` also writes ``("agents", "target_state")`` ``[B, n, d_t]``: each enemy's health,
            type (where it varies) and whether it lives, in the order of the agent's enemy slots.
        fast_push: a faster form of jaxmarl's collision rule; positions differ by some 1e-6.
        kwargs: further ones of jaxmarl's ``HeuristicEnemySMAX`` and ``SMAX``; of those that jaxmarl takes as an array
            (``unit_type_health`` and so on) any six numbers, one for each type of unit.

    A copy and one that was pickled go on with the same battles, as after :meth:`load_simulator_tensors`.

    Raises:
        UserError: jax is missing; an unknown scenario or argument; a value that does not fit.
    """

    own_time_limit = True
    target_shared = True  # an enemy has the same slot for every agent

    def __init__(
        self,
        scenario: str,
        num_envs: int = 32,
        seed: int | None = 0,
        device: torch.device | str = "cpu",
        max_steps: int | None = STEP_LIMIT,
        sight_range: float | None = None,
        enemy_types: str = "mirrored",
        state_target: str = "absolute",
        fast_push: bool = True,
        **kwargs: Any,
    ) -> None:
        _check(scenario, num_envs, max_steps, sight_range, enemy_types, state_target)
        _check_switch("fast_push", fast_push)
        super().__init__(device=device, batch_size=[num_envs])
        module = load_battles()
        self.relative = state_target == "relative"
        self.says = [f"sight {sight_range:g}"] if sight_range is not None else []
        if scenario.startswith("smacv2"):
            self.says.append(f"{enemy_types} types")
        self._arguments = {
            "scenario": scenario,
            "num_envs": num_envs,
            "max_steps": max_steps,
            "sight_range": sight_range,
            "independent": enemy_types == "independent",
            "with_target": self.relative,
            "fast_push": fast_push,
            **_checked_kwargs(module, kwargs),
        }
        self.battles = module.make_battles(**self._arguments)
        self._make_specs()
        self._battle = self.battles.empty()
        self._readings: dict[Any, Tensor] | None = None
        self._set_seed(seed)

    def _make_specs(self) -> None:
        units, types = self.battles.units, self.battles.types
        n, enemies = units.num_allies, units.num_enemies
        self.observation_layout: FeatureLayout = observation_layout(n, enemies, units.unit_features, units.own_features)
        self.state_layout: FeatureLayout = state_layout(n, enemies, types)
        self.target_layout: FeatureLayout | None = target_layout(enemies, types) if self.relative else None
        numbers = partial(Unbounded, dtype=torch.float32)  # jax's, whatever torch's default is
        shape = (*self.batch_size, n)
        actions = units.num_ally_actions
        agents = {
            "observation": numbers((*shape, self.observation_layout.size)),
            "action_mask": Categorical(2, (*shape, actions), dtype=torch.bool),
            "active_mask": Categorical(2, (*shape, 1), dtype=torch.bool),
        }
        if self.target_layout is not None:
            agents["target_state"] = numbers((*shape, self.target_layout.size))
        flag = {name: Categorical(2, (*self.batch_size, 1), dtype=torch.bool) for name in (DONE, TERMINATED, TRUNCATED)}
        state = numbers((*self.batch_size, self.state_layout.size))
        root = {AGENTS: Composite(agents, shape=shape), STATE: state, SUCCESS: flag[DONE].clone()}
        action = Composite({"action": Categorical(actions, shape)}, shape=shape)
        reward = Composite({"reward": numbers((*shape, 1))}, shape=shape)
        self.observation_spec = Composite(root, shape=self.batch_size).to(self.device)
        self.action_spec = Composite({AGENTS: action}, shape=self.batch_size).to(self.device)
        self.reward_spec = Composite({AGENTS: reward}, shape=self.batch_size).to(self.device)
        self.done_spec = Composite(flag, shape=self.batch_size).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Without jax's compiled functions and arrays, which cannot be copied or sent to another process."""
        state = super().__getstate__()
        for name in ("battles", "_keys", "_battle"):
            del state[name]
        return {**state, "_tensors": self.simulator_tensors()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tensors = state.pop("_tensors")
        super().__setstate__(state)
        self.battles = load_battles().make_battles(**self._arguments)
        self._keys, self._battle = self.battles.from_tensors(tensors)

    def _set_seed(self, seed: int | None) -> None:
        seed = check_seed(seed)
        if seed is None:
            seed = int(torch.randint(2**31 - 1, ()))
        self._keys = self.battles.seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        chosen = None if tensordict is None else tensordict.get("_reset", None)
        if chosen is None or self._readings is None:
            chosen = torch.ones(self.batch_size, dtype=torch.bool)
        chosen = chosen.reshape(-1).nonzero().flatten().cpu()
        if self._readings is None:
            spec = self.observation_spec
            read = (OBSERVATION, STATE, TARGET_STATE, ACTION_MASK, ACTIVE_MASK)
            self._readings = {key: spec[key].zero() for key in read if key in spec.keys(True, True)}
        # copies: those of the last step are in somebody's rollout; the environment may have been moved since
        self._readings = {key: value.to(self.device, copy=True) for key, value in self._readings.items()}
        for part in chosen.split(self.battles.chunk):
            index = self.battles.indices(part.tolist())
            self._keys, self._battle, readings = self.battles.reset(self._keys, self._battle, index)
            part = part.to(self.device)
            for key, value in self._to_torch(readings).items():
                self._readings[key][part] = value[: len(part)]
        no = torch.zeros((*self.batch_size, 1), dtype=torch.bool, device=self.device)
        return self._pack({**self._readings, **{key: no.clone() for key in (DONE, TERMINATED, TRUNCATED, SUCCESS)}})

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._readings is None:
            raise UserError("A battle was expected to have begun before its first step, got a step: call reset first.")
        # one integer type and one array of its own: no second compilation, and nothing that anybody writes into
        actions = self.battles.actions(action_indices(self, tensordict))
        self._keys, self._battle, readings, outcome = self.battles.step(self._keys, self._battle, actions)
        self._readings = self._to_torch(readings)
        ends = {REWARD: outcome.reward, TERMINATED: outcome.terminated, TRUNCATED: outcome.truncated}
        ends = {key: self._tensor(value) for key, value in {**ends, SUCCESS: outcome.success}.items()}
        return self._pack({**self._readings, **ends, DONE: ends[TERMINATED] | ends[TRUNCATED]})

    def _legal_now(self) -> Tensor | None:
        return None if self._readings is None else self._readings[ACTION_MASK]

    def _pack(self, values: dict[Any, Tensor]) -> TensorDict:
        agents = {key[1]: value for key, value in values.items() if isinstance(key, tuple)}
        root: dict[str, Any] = {key: value for key, value in values.items() if isinstance(key, str)}
        shape = self.full_action_spec[ACTION].shape
        root[AGENTS] = TensorDict(agents, batch_size=shape, device=self.device)
        return TensorDict(root, batch_size=self.batch_size, device=self.device)

    def _to_torch(self, readings: Any) -> dict[Any, Tensor]:
        values = {
            OBSERVATION: readings.observation,
            STATE: readings.state,
            ACTION_MASK: readings.action_mask,
            ACTIVE_MASK: readings.active_mask,
        }
        if self.relative:
            values[TARGET_STATE] = readings.target_state
        return {key: self._tensor(value) for key, value in values.items()}

    def _tensor(self, value: Any) -> Tensor:
        """A copy: jax may hand out the same memory again, and TorchRL writes into what it gets."""
        return torch.from_dlpack(value).to(self.device, copy=True)

    def simulator_tensors(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, as copies, for a checkpoint."""
        return self.battles.to_tensors(self._keys, self._battle)

    def load_simulator_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Bring back what :meth:`simulator_tensors` gave; the battles then count as begun, also without a reset.

        Raises:
            UserError: it was given by an environment with another number of battles or units.
        """
        self._keys, self._battle = self.battles.from_tensors(tensors)
        # a partial reset returns them for the battles that go on, and random actions are drawn by their mask
        self._readings = self._to_torch(self.battles.read(self._battle))


def _check(scenario, num_envs, max_steps, sight_range, enemy_types, state_target) -> None:
    if scenario not in SCENARIOS:
        raise unknown("SMAX scenario", scenario, SCENARIOS)
    if enemy_types not in ENEMY_TYPES:
        raise unknown("enemy_types", enemy_types, ENEMY_TYPES)
    if enemy_types == "independent" and not scenario.startswith("smacv2"):
        raise UserError(f"enemy_types=independent is for the smacv2_* scenarios; those of {scenario} are fixed.")
    if state_target not in STATE_TARGETS:
        raise unknown("state_target", state_target, STATE_TARGETS)
    if sight_range is not None and not _is_length(sight_range):
        raise UserError(
            f"sight_range must be a distance above 0 in map units (the map is 32 wide), got {sight_range!r}."
        )
    for name, value in (("num_envs", num_envs), ("max_steps", max_steps)):
        if value is not None:
            check_count(name, value, "leave it away for the default")
    if max_steps is not None and max_steps > LAST_STEP:
        raise UserError(f"max_steps must be at most {LAST_STEP}, got {max_steps}: take max_steps=None for no limit.")


def _check_switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):  # yes and off are strings on the command line, which count as true
        raise UserError(f"{name} must be True or False, got {value!r}: write {name}=true or {name}=false.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_length(value: Any) -> bool:
    return _is_number(value) and value > 0


def _checked_kwargs(module: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """jaxmarl's own arguments, as values that can be looked up: one that is an array as a tuple."""
    taken = set()
    for kind in module.SIMULATORS:
        taken |= {p.name for p in inspect.signature(kind.__init__).parameters.values() if p.kind != p.VAR_KEYWORD}
    taken -= {*OURS, *OF_THE_MAP, *NAMES}
    checked = dict(kwargs)
    for name, value in kwargs.items():
        if name in OF_THE_MAP:  # jaxmarl takes them beside a scenario, and reads the scenario's
            raise UserError(
                f"{name} is decided by the map in SMAX, expected no value of your own, got {value!r}: take another "
                f"map ({', '.join(SCENARIOS)})."
            )
        if name not in taken:
            raise unknown("argument of SMAX", name, sorted(taken | {"fast_push"}))
        if name.startswith("unit_type_"):
            checked[name] = _six_numbers(name, value)
        if name in SWITCHES:
            _check_switch(name, value)
        if name in LENGTHS and not _is_length(value):
            raise UserError(f"{name} must be a number above 0, got {value!r}: leave it away for jaxmarl's own.")
        if name == "won_battle_bonus" and not _is_number(value):
            raise UserError(f"{name} must be a number, got {value!r}: leave it away for jaxmarl's 1.")
        if name in ("time_per_step", "won_battle_bonus"):
            checked[name] = float(value)  # of a whole number jax would make another type than the step expects
        if name == "attack_mode" and value not in ATTACK_MODES:  # jaxmarl takes any other word for the first
            raise unknown("attack_mode", value, ATTACK_MODES)
        if name == "world_steps_per_env_step":
            check_count(name, value, "leave it away for jaxmarl's 8")
    return checked


def _six_numbers(name: str, value: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != len(UNIT_TYPES) or not all(map(_is_length, numbers)):
        raise UserError(
            f"{name} must be {len(UNIT_TYPES)} numbers above 0, one for each of {', '.join(UNIT_TYPES)}, got {value!r}."
        )
    return numbers
