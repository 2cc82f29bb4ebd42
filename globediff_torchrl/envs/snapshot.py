"""The random stream of VMAS and the simulator's tensors: to save, to bring back, to leave alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torchrl.envs import EnvBase
from vmas.simulator.environment import Environment

from globediff_torchrl.errors import UserError


@contextmanager
def vmas_stream() -> Iterator[None]:
    """Within it, torch, numpy and random draw from VMAS's stream, as inside ``Environment.step``.

    VMAS's own context manager, on the one state that all its environments share; unlike VMAS's, it also gives the
    streams back when the body raises.
    """
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    shared = Environment.vmas_random_state
    _set_generators(*shared)
    try:
        yield
        shared[:] = [torch.random.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002
    finally:
        _set_generators(*before)


def _set_generators(torch_state: Tensor, numpy_state: tuple, python_state: tuple) -> None:
    torch.random.set_rng_state(torch_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
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

    Example:
        >>> with preserve_vmas_rng():
        ...     evaluation = make_env("vmas/hunt", num_envs=32, seed=1_000)
        ...     evaluation.rollout(60, policy)
    """
    before = list(Environment.vmas_random_state)
    try:
        yield
    finally:
        Environment.vmas_random_state[:] = before
