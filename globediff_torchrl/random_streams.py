"""Torch's random streams: drawn from without that anything outside notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def preserve_rng(seed: int | None = None) -> Iterator[None]:
    """Runs a block, under its own seed if one is given, and puts the streams of the CPU and of CUDA back as they were.

    ``torch.random.fork_rng`` would begin to use a GPU in a program that has not, and warns where there are several.
    """
    before = torch.get_rng_state()
    with preserve_cuda_rng():
        try:
            if seed is not None:
                torch.manual_seed(seed)
            yield
        finally:
            torch.set_rng_state(before)


@contextmanager
def preserve_cuda_rng() -> Iterator[None]:
    """Puts the streams of all CUDA devices back as they were."""
    used = torch.cuda.is_initialized()  # else asking for the states would begin to use it
    before = torch.cuda.get_rng_state_all() if used else torch.initial_seed()
    try:
        yield
    finally:
        if used:
            torch.cuda.set_rng_state_all(before)
        else:  # whenever it is used, it begins with torch's own seed, as it would have
            torch.cuda.manual_seed_all(before)
