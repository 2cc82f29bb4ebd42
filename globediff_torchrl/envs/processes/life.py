"""An environment in a thread of its own, from its making to its end."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Callable
from typing import Any

from torchrl.envs import EnvBase

from globediff_torchrl.envs.processes.children import Printed, kill_processes, resident_memory, with_descendants
from globediff_torchrl.envs.processes.deadline import DeadlineThread, attempt

END_TIMEOUT = 10.0  # seconds for an environment to close itself before its processes are killed


class Life:
    """One environment, made in the thread in which it is used, and its end.

    ``printed`` gets what its processes print, also where the making fails.
    """

    def __init__(self, create_env: Callable[[], EnvBase], timeout: float, printed: Printed) -> None:
        self.thread = DeadlineThread(printed=printed)
        self.env: EnvBase | None = None
        try:
            self.env = self.thread.call(create_env, timeout)
        except BaseException:
            self.kill()
            raise
        _living.add(self)

    def call(self, function: Callable[[], Any], timeout: float) -> Any:
        """What ``function()`` returns, run where the environment lives; see :meth:`DeadlineThread.call`."""
        return self.thread.call(function, timeout)

    def memory(self) -> float:
        """MB that the environment's child processes hold."""
        return resident_memory(self.thread.children())

    def processes(self) -> int:
        """How many child processes the environment has, those that they have started included."""
        return len(with_descendants(self.thread.children()))

    def close(self) -> None:
        """Lets the environment close itself, if it does so soon, and ends its processes."""
        if not self.thread.lost:
            with contextlib.suppress(Exception):
                self.thread.call(self.env.close, END_TIMEOUT)
                self.env = None
        self.kill()

    def kill(self) -> None:
        """Ends the environment and its processes without waiting for either to answer."""
        engines = self.thread.children()
        kill = getattr(self.env, "kill", None)
        if kill is not None:
            attempt(kill, END_TIMEOUT)
        kill_processes([*engines, *self.thread.children()])
        if self.env is not None:
            attempt(self.env.close, END_TIMEOUT)
        self.thread.end()
        _living.discard(self)


_living: weakref.WeakSet[Life] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for life in list(_living):
        life.close()
