"""Where CPU time goes: of processes, and of functions within them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of the processes and all of their threads, in seconds (Linux)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(task.read_text(encoding="utf-8").split()[0])
    return total / 1e9


class Clocks:
    """CPU time of a thread within some functions, without that within functions of another clock inside them.

    The totals stand in a file, where another process reads them with :func:`read_clocks`.

    Args:
        names: of the clocks.
        file: is written anew.
    """

    def __init__(self, names: Sequence[str], file: Path) -> None:
        self.names = tuple(names)
        self.totals = np.memmap(file, dtype=np.float64, mode="w+", shape=(len(self.names),))
        self.inside: list[list[float]] = []  # [clock, when it began, spent in others]

    def wrap(self, owner: type, method: str, clock: str) -> None:
        """From now on ``owner.method`` is timed by the clock of that name."""
        function, index = getattr(owner, method), self.names.index(clock)

        def timed(*args, **kwargs):
            if self.inside and self.inside[-1][0] == index:
                return function(*args, **kwargs)
            entry = [index, time.thread_time(), 0.0]
            self.inside.append(entry)
            try:
                return function(*args, **kwargs)
            finally:
                self.inside.pop()
                spent = time.thread_time() - entry[1]
                self.totals[index] += spent - entry[2]
                if self.inside:
                    self.inside[-1][2] += spent

        setattr(owner, method, timed)


def read_clocks(files: Iterable[Path], count: int) -> np.ndarray:
    """The sums of what the clocks of each file show, in seconds, ``[count]``; a file that is not there has none."""
    return sum((np.fromfile(file) for file in files if file.exists()), np.zeros(count))
