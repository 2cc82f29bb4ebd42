"""What a test can ask of the stand-in: environment variables that the engine reads once, when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "SC2_STANDIN_"


@dataclass(frozen=True)
class Knobs:
    """The knobs of one engine; ``environ()`` turns them into variables, ``from_environ()`` reads them back.

    - ``damage``: factor on the damage that the computer player's units deal; 1 is the game's own.
    - ``respawn_delay``: game loops between the death of the last unit and the next battle. The maps have 0.
    - ``crash_at``, ``freeze_at``: the step request (counted from 1 over the life of the process) that ends the process
      without an answer, or that is never answered; 0 is never.
    - ``refuse``: the process ends at once, as a broken installation does.
    - ``faulty_starts``: only this many of the engines in ``log`` have the three faults above; 0 is all of them.
    - ``log``: a file that gets one line for each start and each exit of an engine (see ``read_log``).
    - ``seed``: the seed of games that were created without one; negative is a fresh one for each.
    """

    damage: float = 1.0
    respawn_delay: int = 0
    crash_at: int = 0
    freeze_at: int = 0
    refuse: int = 0
    faulty_starts: int = 0
    log: Path | str = ""
    seed: int = -1

    def environ(self) -> dict[str, str]:
        """Every knob as an environment variable, so that one set replaces another entirely."""
        return {PREFIX + field.name.upper(): str(getattr(self, field.name)) for field in fields(self)}

    def set(self, monkeypatch) -> None:
        """For the engines that this process starts, until pytest's ``monkeypatch`` is undone."""
        for name, value in self.environ().items():
            monkeypatch.setenv(name, value)

    @classmethod
    def from_environ(cls) -> Knobs:
        """The knobs of this process; a variable that is not set keeps its default."""
        types = {"damage": float, "log": str}
        given = {field.name: os.environ.get(PREFIX + field.name.upper(), "") for field in fields(cls)}
        return cls(**{name: types.get(name, int)(text) for name, text in given.items() if text})
