"""What smacv2 draws at random: teams, places, abilities, shuffles; each with a seed. Imports smacv2: import it late."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from smacv2.env.starcraft2.distributions import get_distribution


class Streams:
    """A game's own streams in place of the global ones of ``random`` and numpy, from which smacv2 draws.

    Args:
        sequence: of seeds; two are taken.
    """

    def __init__(self, sequence: np.random.SeedSequence) -> None:
        self._shuffles = random.Random(int(child(sequence).generate_state(1)[0])).getstate()
        self._draws = np.random.MT19937(child(sequence))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """A block in which the global streams are these; behind it they are as they were before."""
        shuffles, draws = random.getstate(), np.random.get_bit_generator()
        random.setstate(self._shuffles)
        np.random.set_bit_generator(self._draws)  # a tenth of the time that copying numpy's state takes
        try:
            yield
        finally:
            self._shuffles = random.getstate()
            random.setstate(shuffles)
            np.random.set_bit_generator(draws)


def child(sequence: np.random.SeedSequence) -> np.random.SeedSequence:
    """The next of the independent seeds that a sequence gives."""
    return sequence.spawn(1)[0]


def make_distributions(config: dict[str, Any]) -> list[Any]:
    """What draws teams, places and abilities; writes into ``config``, as smacv2's wrapper does.

    Args:
        config: smacv2's ``capability_config``.
    """
    made = []
    for name, entry in config.items():
        if name in ("n_units", "n_enemies"):
            continue
        entry.update({"env_key": name, "n_units": config["n_units"], "n_enemies": config["n_enemies"]})
        made.append(get_distribution(entry["dist_type"])(entry))
    return made


def seed_distribution(distribution: Any, sequence: np.random.SeedSequence) -> None:
    """A stream of its own for a distribution and for all that it is made of."""
    for name, value in vars(distribution).items():
        if isinstance(value, np.random.Generator):
            setattr(distribution, name, np.random.default_rng(child(sequence)))
        elif hasattr(value, "generate"):
            seed_distribution(value, sequence)


def draw(distributions: Sequence[Any]) -> dict[str, Any]:
    """The team, the places and the abilities of one battle, as smacv2's ``reset`` takes them."""
    drawn: dict[str, Any] = {}
    for distribution in distributions:
        drawn.update(distribution.generate())
    for name in ("attack", "health"):
        if name in drawn:  # [n, 1], which numpy 2.4 no longer takes for a number
            drawn[name] = {**drawn[name], "item": np.asarray(drawn[name]["item"]).reshape(-1)}
    return drawn
