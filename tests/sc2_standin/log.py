"""Starts and exits of engines in one file, so that a test can assert that none is left running."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def write(path: Path | str, line: str) -> None:
    """Append a line in one write: engines of several processes share the file."""
    if path:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (line + "\n").encode())
        finally:
            os.close(handle)


@dataclass
class Log:
    """``started``: process ids in order; ``exits``: (process id, reason: quit, sigterm, crash, refused, orphan)."""

    started: list[int] = field(default_factory=list)
    exits: list[tuple[int, str]] = field(default_factory=list)

    @property
    def running(self) -> list[int]:
        """The engines that have not said that they ended; one that was killed with SIGKILL stays here."""
        ended = [pid for pid, _ in self.exits]
        return [pid for pid in self.started if pid not in ended]


def read_log(path: Path | str) -> Log:
    """The log at ``path``; an empty one where no engine has written yet."""
    log = Log()
    path = Path(path)
    for line in path.read_text().splitlines() if path.exists() else []:
        what, pid, *reason = line.split()
        if what == "start":
            log.started.append(int(pid))
        else:
            log.exits.append((int(pid), reason[0]))
    return log
