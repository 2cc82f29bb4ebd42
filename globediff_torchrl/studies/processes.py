"""Training runs in processes of their own, which end with the study that started them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from threading import RLock
from typing import Any

from tqdm import tqdm

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Processes:
    """Runs programs from any number of threads; a signal to this process ends them all, and none is started any more.

    Ctrl-C, SIGTERM and the end of the terminal are handed on as SIGTERM, behind which a training run leaves a
    checkpoint; :meth:`run` waits for it. A second signal is handed on, too, and ends it at once.

    Attributes:
        stopped_by: the number of the first signal, None where none came.

    Example:
        >>> with Processes() as processes:
        ...     code = processes.run([sys.executable, "benchmarks/vmas.py"])
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self.running: set[subprocess.Popen] = set()
        # no run begins unseen while a signal is handed on; a second signal comes in the thread that has the lock
        self.lock = RLock()
        self.previous: dict[int, Any] = {}

    def run(self, arguments: Sequence[str], **options: Any) -> int | None:
        """The exit code of a program, once it has ended; None where a signal came before it was started.

        Args:
            arguments, options: those of ``subprocess.Popen``.
        """
        with self.lock:
            if self.stopped_by is not None:
                return None
            # out of reach of the terminal, whose Ctrl-C would be the first of two signals
            process = subprocess.Popen(arguments, start_new_session=True, **options)
            self.running.add(process)
        code = process.wait()
        with self.lock:
            self.running.discard(process)
        return code

    def _stop(self, number: int, frame: Any) -> None:
        with self.lock:
            if self.stopped_by is None:
                self.stopped_by = number
                name, count = signal.Signals(number).name, len(self.running)
                tqdm.write(f"{name}: waiting for {count} runs to leave a checkpoint; a second one ends them at once.")
            for process in self.running:
                process.terminate()

    def __enter__(self) -> Processes:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self.previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
