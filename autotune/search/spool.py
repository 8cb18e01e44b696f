"""The tracker's spool: events on disk, one JSON line each, and how far each store has got."""

from __future__ import annotations

import json
import logging
import os
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

log = logging.getLogger(__name__)

Event = dict[str, Any]


class Spool:
    """A queue of events that outlives the process; one process at a time.

    Args:
        path: the events.
        state: which search this is, and what was sent.
        store: where the events go; another store gets all of them again.
    """

    def __init__(self, path: Path, state: Path, store: str) -> None:
        self._path, self._state = path, state
        self._store = sha256(store.encode()).hexdigest()[:16]  # hashed: a URI may hold a password
        try:
            kept = json.loads(state.read_text())
            self.search, self._sent = str(kept["search"]), {str(k): int(v) for k, v in kept["sent"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            self.search, self._sent = uuid4().hex, {}

    def append(self, event: Event) -> None:
        """Write an event.

        Raises:
            OSError: it could not be written.
        """
        if not self._state.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._save()  # before the first event is sent: who sends it twice has to know the search's id
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line off
                    file.write(b"\n")
            file.write(json.dumps(event).encode() + b"\n")

    def peek(self) -> tuple[Event, int] | None:
        """Return the first event that was not sent, and where it ends; skips lines that are no events."""
        try:
            with self._path.open("rb") as file:
                start = self._sent.get(self._store, 0)
                # a file shorter than what was sent is another one: sending it again is harmless
                file.seek(start if start <= os.fstat(file.fileno()).st_size else 0)
                while (line := file.readline()).endswith(b"\n"):
                    event = _event(line)
                    if event is not None:
                        return event, file.tell()
        except OSError as error:
            log.debug("cannot read the spool: %s", error)
        return None

    def done(self, end: int) -> None:
        """Step past an event that ends there."""
        self._sent[self._store] = end
        try:
            self._save()
        except OSError as error:  # the next start sends the events again, which is harmless
            log.debug("cannot write the state of the spool: %s", error)

    def _save(self) -> None:
        draft = self._state.with_name(self._state.name + ".part")
        draft.write_text(json.dumps({"search": self.search, "sent": self._sent}))
        draft.replace(self._state)


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"kind", "at"} <= event.keys() else None
