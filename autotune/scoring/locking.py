"""A lock on a file, held by the operating system: it ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.05


@contextmanager
def file_lock(path: Path, timeout_s: float) -> Iterator[bool]:
    """Hold a lock among processes and threads; say whether it was got in time.

    The file is removed by its last holder. A holder that dies gives the lock back.

    Raises:
        OSError: the file cannot be made, or its file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _take(path, time.monotonic() + timeout_s)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that and starts afresh
            os.close(handle)


def _take(path: Path, end: float) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(handle)
                return None
            time.sleep(POLL_S)
        except OSError:
            os.close(handle)
            raise
        os.close(handle)  # held by another, or removed by the one that held it


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
