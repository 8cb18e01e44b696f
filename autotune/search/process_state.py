"""Process-wide state, changed for a while: what Ray wants set, and what it must leave alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

FOLDERS = "xsray-"
SOCKET_ROOM = 24  # characters; Ray appends about 70, and the path of a socket has at most 107


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the processes started inside inherit."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back; `ray.init` replaces it, and a search drains with its own."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers change
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class OwnedFolder:
    """A short temporary folder that goes with its process; one whose process was killed goes with the next.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        root = Path(tempfile.gettempdir())
        if len(str(root)) > SOCKET_ROOM and Path("/tmp").is_dir():
            root = Path("/tmp")
        for left in root.glob(f"{FOLDERS}*"):
            _remove_abandoned(left)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDERS, dir=root))
        draft = self.path / ".owner.part"
        self._lock = draft.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        draft.rename(self.path / ".owner")

    def remove(self) -> None:
        """Delete it and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(folder: Path) -> None:
    """Delete a folder of ours that no process holds."""
    try:
        if folder.stat().st_uid != os.getuid():
            return
        with (folder / ".owner").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # held, or just being made or removed
        return
