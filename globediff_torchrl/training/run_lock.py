"""One run at a time in an output folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from globediff_torchrl.errors import UserError
from globediff_torchrl.files import fcntl, lock_at_once
from globediff_torchrl.training.run_files import LOCK


class RunLock:
    """Keeps the runs of other processes out of a folder, from :meth:`take` to :meth:`release`, by ``<folder>/.lock``.

    The lock is the process's: of two trainers on one folder that follow each other in one process, the one that took
    it last has it, and the end of that one frees it. A process that dies frees its lock, also by SIGKILL. Nothing is
    locked on Windows, on a file system without locks, and in a folder that takes no file, where no run can write.

    Example:
        >>> with RunLock(Path("runs/first")):
        ...     write_results(trainer)
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder.absolute() / LOCK
        self.file: int | None = None  # a plain descriptor: Python's files complain where nobody has closed them

    def take(self) -> None:
        """Locks the folder, unless this process has.

        Raises:
            UserError: a run of another process writes to it.
        """
        while fcntl is not None and self.file is None:
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:
                return
            mark = _mark(os.fstat(file))
            other = _TAKEN.get(mark)
            if other is not None and other.file is not None:
                os.close(file)
                self.file, other.file = other.file, None
            elif not lock_at_once(file):
                os.close(file)
                raise UserError(
                    f"another run is writing to {self.folder}, expected a folder that no run uses: give another "
                    "output=, or wait until that run has ended."
                )
            elif not self._lies_there(mark):  # who had it has ended in between, and removed what is locked now
                os.close(file)
                continue
            else:
                self.file = file
            _TAKEN[mark] = self

    def release(self) -> None:
        """Frees the folder, if this lock has it; nothing is left there."""
        if self.file is None:
            return
        file, self.file = self.file, None
        with suppress(OSError):
            if self._lies_there(_mark(os.fstat(file))):  # not so once the folder was moved or made anew
                os.unlink(self.path)
        os.close(file)

    def _lies_there(self, mark: tuple[int, int]) -> bool:
        try:
            return _mark(os.stat(self.path)) == mark
        except OSError:
            return False

    def __enter__(self) -> RunLock:
        self.take()
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


# by the number of the file, which stays when a folder is moved; weak, so that a dropped trainer's lock is dropped
_TAKEN: WeakValueDictionary[tuple[int, int], RunLock] = WeakValueDictionary()


def _mark(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _leave_to_parent() -> None:
    """In a forked process, which would hold the lock for as long as it outlives its parent."""
    for lock in list(_TAKEN.values()):
        if lock.file is not None:
            os.close(lock.file)
            lock.file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
