"""Process-wide state, changed for a while: what Ray wants set, and what it must leave alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping


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
