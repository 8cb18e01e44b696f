"""The MLflow tracker: events go to a spool file, and from there to MLflow by one thread.

So a store that is slow or down neither blocks nor stops a search. What could not be sent is sent by the next
start.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.search.executor import RunBrokenError, last_line
from autotune.search.masking import masked, without_passwords
from autotune.search.spool import Event, Spool
from autotune.search.tracker import Candidate, CaseSet
from xslim.errors import ConfigError

if TYPE_CHECKING:
    from autotune.search.mlflow_store import MLflowStore

log = logging.getLogger(__name__)

MAX_CHILDREN = 500  # from this trial on only those on the front: the UI compares about 100 runs at most
TRIES = 3
RETRY_S = 30.0  # between attempts while the store is down
SWITCH_S = 0.0005  # between threads of the driver
FINISH_S = 60.0  # the first connection to a new SQLite file migrates for 7 s
SQLITE = "sqlite:///"
STATE = "mlflow.json"


class MLflowTracker:
    """Logs a search as one parent run, and its evaluated trials as children.

    Args:
        uri: tracking URI; None takes `MLFLOW_TRACKING_URI`, else an SQLite file in `out`.
        out: folder of the search; holds the spool `mlflow.spool.jsonl`.
        state: remembers which run is this search's and what was sent; None is `mlflow.json` in `out`.
        finish_s: how long `finish` waits for what is left to send.
        retry_s: pause after a failed attempt.
    """

    def __init__(
        self,
        uri: str | None,
        out: Path,
        state: Path | None = None,
        finish_s: float = FINISH_S,
        retry_s: float = RETRY_S,
    ) -> None:
        out = out.resolve()
        self.uri = _uri(uri, out)
        self._experiment = ""
        self._spool = Spool(out / "mlflow.spool.jsonl", state or out / STATE, self.uri)
        self._finish_s, self._retry_s = finish_s, retry_s
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._warned = False
        self._store: MLflowStore | None = None
        self._front: list[int] | None = None
        self._held: dict[str, object] | None = None  # a trial that is logged if it is on the front

    def start(
        self, name: str, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        """Open the parent run, or go on with it; sends what an earlier start left in the spool."""
        self._experiment = experiment
        self._put("start", name=name, params=_texts(params), tags=_texts(tags))
        self._closing.clear()
        if self._thread is None or not self._thread.is_alive():
            # the driver lets go of the interpreter at every statement of the study's database; while MLflow
            # computes it would wait 5 ms, Python's default, each time to get it back
            sys.setswitchinterval(SWITCH_S)
            self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
            self._thread.start()

    def datasets(self, sets: Sequence[CaseSet]) -> None:
        """Log the cases as the parent's datasets, with their digests."""
        self._put("datasets", sets=[asdict(entry) for entry in sets])

    def trial(
        self,
        number: int,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Log a trial as a child run; a number that was logged before is left alone.

        From trial `MAX_CHILDREN` on one is logged only if the `front` that is told next holds it.
        """
        fields = {"params": _texts(params), "metrics": _numbers(metrics), "tags": _texts(tags)}
        self._held = None if number < MAX_CHILDREN else {"number": number, **fields}
        if self._held is None:
            self._put("trial", number=number, **fields)

    def front(self, numbers: Sequence[int]) -> None:
        """Tag the children on the front `pareto`, and untag those that were beaten."""
        if self._held is not None and self._held["number"] in numbers:
            self._put("trial", **self._held)
        self._held = None
        if sorted(numbers) != self._front:
            self._front = sorted(numbers)
            self._put("front", numbers=self._front)

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log stepped metrics on the parent."""
        self._put("progress", step=step, metrics=_numbers(metrics))

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Attach files or folders to the parent; they are read when they are sent."""
        self._put("artifacts", files={key: str(path.resolve()) for key, path in files.items()})

    def register(self, candidates: Sequence[Candidate]) -> None:
        """Register presets as new versions of their models, with the alias `candidate`."""
        self._put(
            "register",
            candidates=[
                {
                    "name": candidate.name,
                    "file": str(candidate.file.resolve()),
                    "sha256": sha256(candidate.file.read_bytes()).hexdigest(),
                    "tags": _texts(candidate.tags),
                }
                for candidate in candidates
                if candidate.file.is_file()
            ],
        )

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Close the parent and wait, a bounded time, until all is sent; nothing without a start."""
        if self._thread is None:
            return
        self._put("finish", metrics=_numbers(metrics), status=status)
        self._closing.set()
        self._wake.set()
        self._thread.join(self._finish_s)
        if self._spool.peek() is not None:
            log.warning(
                "MLflow at %s lacks some of this search; --resume sends the rest", without_passwords(self.uri)
            )

    def _put(self, kind: str, **fields: object) -> None:
        try:
            self._spool.append({"kind": kind, "at": int(time.time() * 1000), **fields})
        except OSError as error:
            self._warn(f"cannot write the MLflow spool: {error}")
        self._wake.set()

    def _run(self) -> None:
        failures = refusals = 0  # in a row; by a store that answers
        while (entry := self._next()) is not None:
            event, end = entry
            try:
                self._connected(event["at"]).send(event)
            except Exception as error:  # a border: tracking must not stop a search
                closing, answers = self._closing.is_set(), self._store is not None
                failures, refusals = failures + 1, refusals + 1 if answers else 0
                if answers and (_hopeless(error) or (refusals >= TRIES and not closing)):
                    self._warn(f"MLflow refused an event ({event['kind']}), which is left out: {error}")
                else:
                    self._warn(f"MLflow at {self.uri} fails, the search goes on: {error}")
                    self._store = None
                    if closing and failures >= TRIES:
                        return
                    self._closing.wait(self._retry_s)
                    continue
            self._spool.done(end)
            failures = refusals = 0

    def _next(self) -> tuple[Event, int] | None:
        """The next event to send, waiting for one; None when there are none and there will be none."""
        while True:
            closing = self._closing.is_set()  # asked first: `finish` writes its event, then closes
            entry = self._spool.peek()
            if entry is not None or closing:
                return entry
            self._wake.wait()
            self._wake.clear()

    def _connected(self, at: int) -> MLflowStore:
        if self._store is None:
            from autotune.search.mlflow_store import MLflowStore

            folder = _artifacts(self.uri)
            self._store = MLflowStore(self.uri, self._experiment, folder, self._spool.search, at)
        return self._store

    def _warn(self, text: str) -> None:
        log.log(logging.DEBUG if self._warned else logging.WARNING, "%s", without_passwords(text))
        self._warned = True


def attach(folder: Path, files: Sequence[Path]) -> None:
    """Attach files to the MLflow run of a finished or a running search.

    Args:
        folder: of the search, whose `mlflow.json` says which run is its own.
        files: what to attach.

    Raises:
        ConfigError: the search has no run in this store.
        RunBrokenError: the store does not answer.
    """
    folder = folder.resolve()
    uri = _uri(None, folder)
    shown = without_passwords(uri)
    try:
        search = str(json.loads((folder / STATE).read_text())["search"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--mlflow: holds no {STATE}, so the search was not tracked; search with tracking.kind mlflow",
            source=str(folder),
        ) from None
    missing = ConfigError(
        f"--mlflow: {shown} holds no run of this search; set MLFLOW_TRACKING_URI to the store it is in",
        source=str(folder),
    )
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise missing
    from autotune.search import mlflow_store

    try:
        found = mlflow_store.attach(uri, search, [str(path.resolve()) for path in files])
    except Exception as error:  # a border: a store may fail in many ways
        said = without_passwords(last_line(str(error)))
        raise RunBrokenError(f"--mlflow: MLflow at {shown} fails: {said}") from error
    if not found:
        raise missing


def _uri(given: str | None, out: Path) -> str:
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{out / 'mlflow.db'}"


def _hopeless(error: Exception) -> bool:
    from autotune.search.mlflow_store import hopeless

    return hopeless(error)


def _artifacts(uri: str) -> str | None:
    """Where files go beside an SQLite store; MLflow's default is the current folder."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts").as_uri()


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {key: masked(key, str(value)) for key, value in values.items()}


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}
