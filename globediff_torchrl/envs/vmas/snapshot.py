"""The random stream of VMAS and the simulator's tensors and choices: to save, to bring back, to leave alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrl.envs import EnvBase, TransformedEnv
from vmas.simulator.core import Entity
from vmas.simulator.environment import Environment

from globediff_torchrl.errors import UserError
from globediff_torchrl.random_streams import preserve_cuda_rng


@contextmanager
def vmas_stream() -> Iterator[None]:
    """Within it, torch, numpy and random draw from VMAS's stream, as inside ``Environment.step``.

    VMAS's own context manager, on the one state that all its environments share; unlike VMAS's, it also gives the
    streams back when the body raises.
    """
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    shared = Environment.vmas_random_state
    _set_generators(*shared)
    try:
        yield
        shared[:] = [torch.random.get_rng_state(), np.random.get_state(), random.getstate()]
    finally:
        _set_generators(*before)


def _set_generators(torch_state: Tensor, numpy_state: tuple, python_state: tuple) -> None:
    torch.random.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def vmas_rng_state() -> dict[str, Tensor]:
    """The state of VMAS's random stream as plain tensors, which ``torch.load(weights_only=True)`` takes.

    On CUDA it does not cover the CUDA generator, which VMAS does not keep apart either.
    """
    torch_state, numpy_state, python_state = Environment.vmas_random_state
    _, keys, position, has_gauss, gauss = numpy_state
    version, internal, gauss_next = python_state
    return {
        "torch": torch_state.clone(),
        "numpy_keys": torch.from_numpy(keys.astype(np.int64)),
        "numpy_position": torch.tensor([position, has_gauss]),
        "numpy_gauss": torch.tensor([gauss], dtype=torch.float64),
        "python": torch.tensor([version, *internal]),
        "python_gauss": torch.tensor([] if gauss_next is None else [gauss_next], dtype=torch.float64),
    }


def set_vmas_rng_state(state: dict[str, Tensor]) -> None:
    """Bring back what :func:`vmas_rng_state` gave."""
    position, has_gauss = state["numpy_position"].tolist()
    keys = state["numpy_keys"].cpu().numpy().astype(np.uint32)
    version, *internal = state["python"].tolist()
    gauss_next = state["python_gauss"].tolist()
    Environment.vmas_random_state[:] = [
        state["torch"].cpu().clone(),
        ("MT19937", keys, position, has_gauss, state["numpy_gauss"].item()),
        (version, tuple(internal), gauss_next[0] if gauss_next else None),
    ]


@contextmanager
def preserve_vmas_rng() -> Iterator[None]:
    """Making, resetting and stepping environments within it leaves the stream of those outside as it was.

    The generators of all CUDA devices too: VMAS keeps streams of the CPU apart, but seeds by ``torch.manual_seed``.

    Example:
        >>> with preserve_vmas_rng():
        ...     evaluation = make_env("vmas/hunt", num_envs=32, seed=1_000)
        ...     evaluation.rollout(60, policy)
    """
    before = list(Environment.vmas_random_state)
    try:
        with preserve_cuda_rng():
            yield
    finally:
        Environment.vmas_random_state[:] = before


# rebuilt in every step, or of no consequence for the simulation
_SKIPPED = {"forces_dict", "torques_dict", "entity_index_map", "viewer", "action_space", "observation_space"}
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, Enum, FunctionType, MethodType, ModuleType)
_TENSOR, _NUMBER, _ENTITY, _TRANSFORMS = "simulator", "number", "entity", "transform"  # what a path begins with


def can_be_saved(env: EnvBase) -> bool:
    """Whether :func:`simulator_state` can take a copy: not of StarCraft II, which runs in processes of its own."""
    base = _innermost(env)
    return hasattr(type(base), "simulator_tensors") or isinstance(vars(base).get("_env"), Environment)


def simulator_state(env: EnvBase) -> dict[str, Tensor]:
    """Copies of all tensors of a simulator and of the history that x is made of, by the path that leads to them.

    Of VMAS also every Python number, and which agent or landmark each attribute refers to: scenarios draw some of them
    in a reset, as a goal or a mass. With :func:`vmas_rng_state` and the tensordict that the collector holds, it brings
    a run back exactly.

    Args:
        env: what :func:`~globediff_torchrl.envs.make_env` gives, also with further transforms around it. What those
            remember, as CatFrames does, is not copied.

    Returns:
        path -> tensor; tensors that the simulator shares stay shared. A number is a tensor without dimensions, an
        agent or a landmark its place among all of them.
    """
    copies: dict[int, Tensor] = {}
    state = {}
    base = _innermost(env)
    if hasattr(base, "simulator_tensors"):
        state = {f"{_TENSOR}/{name}": tensor for name, tensor in base.simulator_tensors().items()}
    else:
        simulator = _vmas_environment(env)
        places = {id(entity): place for place, entity in enumerate(_entities(simulator).values())}
        for path, value in _parts(simulator):
            if isinstance(value, Tensor):
                state[path] = copies.setdefault(id(value), value.detach().clone())
            else:
                number = places[id(value)] if path.startswith(f"{_ENTITY}/") else value
                # torch's own choice for a float would round it
                state[path] = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)
    for name, buffer in _memories(env):
        state[f"{_TRANSFORMS}/{name}"] = buffer.clone()
    return state


def load_simulator_state(env: EnvBase, state: dict[str, Tensor]) -> None:
    """Bring an environment made by the same call back to where :func:`simulator_state` was taken.

    States without numbers and references, which earlier versions saved, leave the environment's own.

    Raises:
        UserError: where the environment has other parts, or another number of environments.
    """
    base = _innermost(env)
    if hasattr(base, "load_simulator_tensors"):
        _load_memories(env, state)
        simulator = {path.split("/", 1)[1]: saved for path, saved in state.items() if path.startswith(f"{_TENSOR}/")}
        return base.load_simulator_tensors(simulator)
    simulator = _vmas_environment(env)
    present = dict(_parts(simulator))
    if not all(path in present or path.startswith(f"{_TRANSFORMS}/") for path in state):
        # scenarios and scripted agents make some of their parts in the first step
        with preserve_vmas_rng():
            simulator.step(simulator.get_random_actions())
        present = dict(_parts(simulator))
    _load_memories(env, state)
    entities = list(_entities(simulator).values())
    bound: dict[tuple, Tensor] = {}
    for path, saved in state.items():
        kind = path.split("/", 1)[0]
        if kind == _TENSOR:
            if path in present and present[path].shape != saved.shape:
                shapes = f"shape {tuple(saved.shape)}, the environment's {tuple(present[path].shape)}"
                raise UserError(f"The saved {path} has {shapes}: made with other arguments?")
            # tensors that were one when saved are one again, also after torch.save and torch.load
            storage = (saved.untyped_storage().data_ptr(), saved.storage_offset(), saved.shape, saved.stride())
            _bind(simulator, path, bound.setdefault(storage, saved.to(simulator.device, copy=True)))
        elif kind == _NUMBER:
            _bind(simulator, path, saved.item())
        elif kind == _ENTITY:
            if saved.item() >= len(entities):
                raise _missing(path)
            _bind(simulator, path, entities[saved.item()])


def _innermost(env: EnvBase) -> EnvBase:
    for wrapper in _wrappers(env):  # by their type: a ParallelEnv answers to every name, base_env too
        env = wrapper.base_env
    return env


def _vmas_environment(env: EnvBase) -> Environment:
    base = _innermost(env)
    simulator = getattr(base, "_env", None)
    if not isinstance(simulator, Environment):
        raise UserError(
            f"Only VMAS and SMAX environments have a simulator state to save, got {type(base).__name__}; expected "
            f"an environment with simulator_tensors() and load_simulator_tensors()."
        )
    return simulator


def _load_memories(env: EnvBase, state: dict[str, Tensor]) -> None:
    wrappers = list(_wrappers(env))
    for path, saved in state.items():
        if path.startswith(f"{_TRANSFORMS}/"):
            *outer, place = path.split("/")[1:]
            *parents, name = place.split(".")
            if len(outer) >= len(wrappers):
                raise _missing(path)
            memory = wrappers[len(outer)].transform.get_submodule(".".join(parents))
            setattr(memory, name, saved.to(env.device, copy=True))


def _memories(env: EnvBase) -> Iterator[tuple[str, Tensor]]:
    """The memories of the transforms, those of an environment further inside under one ``base_env/`` more."""
    for depth, wrapper in enumerate(_wrappers(env)):
        for name, buffer in wrapper.transform.named_buffers():
            if name.endswith("memory.frames"):
                yield f"{'base_env/' * depth}{name}", buffer


def _wrappers(env: EnvBase) -> Iterator[TransformedEnv]:
    while isinstance(env, TransformedEnv):
        yield env
        env = env.base_env


def _children(holder: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(holder, dict):
        yield from ((str(index), value) for index, value in enumerate(holder.values()))
    elif isinstance(holder, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(holder))
    elif not isinstance(holder, _LEAVES):
        yield from ((name, value) for name, value in getattr(holder, "__dict__", {}).items() if name not in _SKIPPED)


def _entities(simulator: Environment) -> dict[str, Entity]:
    """All agents, then all landmarks, by their paths without what a path begins with."""
    world = simulator.scenario.world
    lists = {"_agents": world._agents, "_landmarks": world._landmarks}
    return {f"scenario/_world/{name}/{i}": each for name, held in lists.items() for i, each in enumerate(held)}


def _parts(simulator: Environment) -> Iterator[tuple[str, Any]]:
    """Every tensor, Python number and attribute that refers to an agent or a landmark.

    What belongs to an agent or a landmark is found under its own place, never through an attribute that refers to it:
    that of another environment, or after another reset, may refer to another one.
    """
    entities = _entities(simulator)
    seen = {id(entity) for entity in entities.values()}
    known = frozenset(seen)
    for path, entity in entities.items():
        yield from _walk(entity, path, seen, known)
    yield from _walk(simulator, "", seen, known)


def _walk(holder: Any, path: str, seen: set[int], entities: frozenset[int]) -> Iterator[tuple[str, Any]]:
    seen.add(id(holder))
    fixed = isinstance(holder, tuple)  # tensors in it can be written to, nothing else
    for name, value in _children(holder):
        below = f"{path}/{name}" if path else name
        if isinstance(value, Tensor):
            yield f"{_TENSOR}/{below}", value
        elif isinstance(value, int | float) and not isinstance(value, Enum):
            if not fixed:
                yield f"{_NUMBER}/{below}", value
        elif id(value) in entities:
            if not fixed:
                yield f"{_ENTITY}/{below}", value
        elif id(value) not in seen and not isinstance(value, _LEAVES):
            yield from _walk(value, below, seen, entities)


def _bind(root: Any, path: str, value: Any) -> None:
    *parents, name = path.split("/")[1:]
    holder = root
    for step in parents:
        holder = dict(_children(holder)).get(step)
    if isinstance(holder, dict) and int(name) < len(holder):
        holder[list(holder)[int(name)]] = value
    elif isinstance(holder, list) and int(name) < len(holder):
        holder[int(name)] = value
    elif isinstance(holder, tuple) and int(name) < len(holder):
        holder[int(name)].copy_(value)
    elif hasattr(holder, "__dict__"):
        holder.__dict__[name] = value
    else:
        raise _missing(path)


def _missing(path: str) -> UserError:
    return UserError(f"The environment has no {path} to bring back: made with other arguments?")
