"""Files that are whole or not there at all, whatever a kill or a full disk does; and what a full disk looks like."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
