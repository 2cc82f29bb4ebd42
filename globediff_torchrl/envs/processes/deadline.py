"""A thread that does what it is told, and a caller who does not wait for ever."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import torch

from globediff_torchrl.envs.processes.children import Printed, children, die_with_parent


class OutOfTime(RuntimeError):
    """A call did not answer in time; the thread that runs it is lost."""


class DeadlineThread:
    """One thread, in which calls run one after the other, each with a deadline.

    What the calls start by ``subprocess`` dies with the thread (Linux), so with :meth:`end`, with this object, and with
    the process however it ends; ``printed`` gets what the last of them prints. Calls run without gradients.
    """

    def __init__(self, printed: Printed | None = None) -> None:
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        # the thread holds the queues, not this object: it ends when nobody can call it any more
        work = (self._calls, self._answers, printed)
        self._thread = threading.Thread(target=_serve, args=work, name="environment", daemon=True)
        self._thread.start()
        self.lost = False

    def call(self, function: Callable[[], Any], timeout: float) -> Any:
        """What ``function()`` returns.

        Ctrl-C goes through. The thread is then ``lost``, as after :class:`OutOfTime`: it may still be within the call.

        Raises:
            OutOfTime: it takes longer than ``timeout`` seconds, or the thread is lost; no further call is answered.
            Exception: what it raises.
        """
        if self.lost:
            raise OutOfTime("an earlier call was not waited for to its end")
        try:
            self._calls.put(function)
            good, answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.lost = True
            raise OutOfTime(f"no answer within {timeout:g} s") from None
        except BaseException:  # Ctrl-C: the answer is still to come, and would pass for that of the next call
            self.lost = True
            raise
        if good:
            return answer
        raise answer

    def children(self) -> list[int]:
        """The processes that the thread has started and that are not reaped."""
        return children(thread=self._thread.native_id) if self._thread.is_alive() else []

    def end(self) -> None:
        """Ends the thread, at once or when the call that it hangs in returns."""
        self._calls.put(None)

    def __del__(self) -> None:
        self._calls.put(None)


@torch.no_grad()
def _serve(calls: queue.SimpleQueue, answers: queue.SimpleQueue, printed: Printed | None) -> None:
    with die_with_parent(printed):
        while (function := calls.get()) is not None:
            try:
                answer = True, function()
            except Exception as error:
                answer = False, error
            except BaseException as error:  # sys.exit in a library, say: it ends this thread's call, not the caller
                answer = False, RuntimeError(f"{type(error).__name__}: {error}")
            answers.put(answer)
            del function, answer  # a waiting thread keeps no environment alive


def attempt(function: Callable[[], Any], timeout: float) -> None:
    """Runs something that may raise or hang, in a thread of its own, for at most ``timeout`` seconds."""

    def quiet() -> None:
        with contextlib.suppress(BaseException):
            function()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    thread.join(timeout)
