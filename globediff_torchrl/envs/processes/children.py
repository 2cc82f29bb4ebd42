"""Child processes: those that die with their parent, what they print and hold, and how none is left behind.

All of it reads Linux's ``/proc`` and uses ``prctl``; elsewhere nothing is found and nothing is bound, and an engine is
ended by its environment's ``close()`` alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

ENGINE_NAMES = ("SC2_x64", "SC2.exe", "SC2")
PR_SET_PDEATHSIG = 1
LAST_BYTES, LAST_LINES, LINE_LENGTH = 4096, 5, 200  # of what a process printed, for a message
LINUX = sys.platform.startswith("linux")

_libc = ctypes.CDLL(None) if LINUX else None  # looked up here: nothing may be loaded between fork and exec
_plain_popen = subprocess.Popen
_bound = threading.local()
_lock = threading.Lock()
_users = 0


class Printed:
    """What a process prints, in a file without a name, which goes when the last one closes it, however that ends."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def begin(self) -> IO[bytes]:
        """An empty file for a new process; that of the one before is forgotten."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process may print
        return self._file

    def last_lines(self) -> list[str]:
        """The last lines that are not empty; there may be none."""
        if self._file is None:
            return []
        number = self._file.fileno()
        # not seek: the process writes where this file stands
        end = os.pread(number, LAST_BYTES, max(0, os.fstat(number).st_size - LAST_BYTES))
        lines = (" ".join(line.split())[:LINE_LENGTH] for line in end.decode(errors="replace").splitlines())
        return [line for line in lines if line][-LAST_LINES:]


class _BoundPopen(_plain_popen):
    """``subprocess.Popen`` that binds what a thread within :func:`die_with_parent` starts, and keeps what it prints."""

    def __init__(self, *args, **kwargs) -> None:
        if getattr(_bound, "depth", 0):
            kwargs["preexec_fn"] = _binder(kwargs.get("preexec_fn"))
            # a session of its own: Ctrl-C goes to the run, which ends its engines itself
            kwargs.setdefault("start_new_session", True)
            if kwargs.get("stdout") is None and kwargs.get("stderr") is None:
                # StarCraft II's many lines would hide the run's own
                kwargs["stdout"], kwargs["stderr"] = _bound.printed.begin(), subprocess.STDOUT
        super().__init__(*args, **kwargs)


def _binder(then: Callable[[], None] | None) -> Callable[[], None]:
    """What a new process does before it becomes the program: ask for its own end, and see that it is not too late."""
    parent = os.getpid()

    def bind() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if then is not None:
            then()

    return bind


@contextlib.contextmanager
def die_with_parent(printed: Printed | None = None) -> Iterator[None]:
    """Every ``subprocess.Popen`` of the calling thread within it dies when the thread ends, however it ends.

    The kernel sends SIGKILL when the THREAD that started a process ends, also where the whole process was killed: start
    engines from a thread that lives as long as they are needed. Other threads' processes are left alone. What a process
    prints is no longer seen, but for one whose maker says where it goes: ``printed`` holds the last one's.
    :class:`~globediff_torchrl.envs.processes.guard.GuardedEnv` makes and runs its environment within it.

    Example:
        >>> with die_with_parent():
        ...     env.reset()  # starts StarCraft II
    """
    global _users
    if not LINUX:
        yield
        return
    with _lock:
        _users += 1
        subprocess.Popen = _BoundPopen
    _bound.depth, outer = getattr(_bound, "depth", 0) + 1, getattr(_bound, "printed", None)
    _bound.printed = printed or Printed()
    try:
        yield
    finally:
        _bound.depth -= 1
        _bound.printed = outer
        with _lock:
            _users -= 1
            if not _users:
                subprocess.Popen = _plain_popen


def end_with_parent() -> None:
    """Ends this process of ``multiprocessing`` when the one that started it is gone, were it killed.

    A worker waits for its next command on a pipe, and one that is busy would not see the pipe's end.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)  # what it started is bound to it and goes, too

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def children(pid: int | None = None, thread: int | None = None) -> list[int]:
    """Processes started by the process ``pid`` (this one by default), or by its thread of that native id alone."""
    tasks = Path(f"/proc/{os.getpid() if pid is None else pid}/task")
    found: list[int] = []
    for file in tasks.glob("*/children") if thread is None else [tasks / str(thread) / "children"]:
        with contextlib.suppress(OSError):
            found += [int(child) for child in file.read_text(encoding="utf-8").split()]
    return found


def with_descendants(pids: Iterable[int]) -> list[int]:
    """The processes and all that they have started, parents first."""
    found = list(pids)
    for pid in found:
        found += [child for child in children(pid) if child not in found]
    return found


def resident_memory(pids: Iterable[int]) -> float:
    """Memory of the processes and their descendants that is not swapped out, in MB (2^20 bytes)."""
    pages = 0
    for pid in with_descendants(pids):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 if pages else 0.0


def kill_processes(pids: Iterable[int], wait: float = 5.0) -> None:
    """Kills the processes and all that they have started, also stopped ones, and reaps its own children."""
    doomed = with_descendants(pids)
    for pid in doomed:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + wait
    while doomed and time.monotonic() < deadline:
        doomed = [pid for pid in doomed if not _gone(pid)]
        if doomed:
            time.sleep(0.01)


def _gone(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # somebody else's child, to be reaped by them, or reaped by its Popen
        try:
            # its second word is a name of any bytes, cut at 15
            return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True


def engines() -> list[tuple[int, int]]:
    """Running StarCraft II processes of this machine as ``(pid, parent's pid)``; the parent of an orphan is 1."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            # a script is run by its interpreter, and stands second
            if any(Path(os.fsdecode(word)).name in ENGINE_NAMES for word in words[:2]):
                parent = int((folder / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()[1])
                found.append((int(folder.name), parent))
    return found
