"""Files that are whole or not there at all, whatever a kill, a full disk or another process does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: nobody waits for anybody
    fcntl = None

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would pass the limit on its size (ulimit -f)",
}
# torch and safetensors raise errors of their own, without an errno; torch.save not even with its text
WORDS = {os.strerror(number): number for number in FULL}
WORDS |= dict.fromkeys(("inline_container", "PytorchStreamWriter", "iostream error"), errno.ENOSPC)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, which takes its place once the body has ended without an error.

    Example:
        >>> with replacing(output / "summary.json") as part:
        ...     part.write_text("{}")
    """
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        part.touch()
        mode = part.stat().st_mode  # as the user's umask has it: safetensors' files may be read by their owner alone
        yield part
        part.chmod(mode)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def one_at_a_time(path: Path, waiting: str) -> Iterator[None]:
    """Lets one process at a time make ``path``; the others print ``waiting`` and wait, by a lock on ``<path>.lock``.

    A process that dies frees its lock, also by SIGKILL. Who comes in has to look whether ``path`` is there by now: the
    lock file goes once it is, that is, when the body ends without an error.

    Example:
        >>> with one_at_a_time(path, f"Waiting for {path}."):
        ...     if not path.exists():
        ...         make(path)
    """
    lock = Path(f"{path}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="utf-8") as file:
        if not lock_at_once(file.fileno()):
            tqdm.write(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        if fcntl is not None:  # held, or it would be the next one's that goes
            lock.unlink(missing_ok=True)
    if fcntl is None:
        with suppress(PermissionError):  # Windows removes no file that anybody has open
            lock.unlink(missing_ok=True)


def lock_at_once(file: int) -> bool:
    """Locks an open file, given by its descriptor, until it is closed; False where another process has locked it.

    True also where there is nothing to lock with: on Windows, and on a file system without locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def allocate(folder: Path) -> None:
    """Claims the disk space of every memory-mapped file below ``folder``.

    Such files are made with holes; a page that finds no room when it is written to ends the process by SIGBUS.

    Raises:
        OSError: the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    for path in folder.rglob("*.memmap"):
        if path.stat().st_size > 0:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def disk_trouble(error: BaseException | None) -> str | None:
    """Why the disk did not take what was written, or None where ``error`` is about something else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return FULL[error.errno]
        for words, number in WORDS.items():
            if words in str(error):
                return FULL[number]
        error = error.__cause__ or error.__context__
    return None
