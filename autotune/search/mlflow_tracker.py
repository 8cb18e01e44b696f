"""The MLflow tracker, the only file that imports mlflow.

Every event is appended to a spool file and sent from there by one thread, so a store that is slow or down
neither blocks nor stops a search. What could not be sent is sent by the next start.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autotune.search.spool import Event, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SEARCH_TAG, TRIAL_TAG = "autotune.search", "autotune.trial"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own; its UI folds children under their parent by it
# MLflow's limits (mlflow/utils/validation.py of 3.17)
MAX_KEY, MAX_PARAM, MAX_TAG, BATCH = 250, 6_000, 8_000, 100
TRIES = 3
RETRY_S = 30.0  # between attempts while the store is down
FINISH_S = 60.0  # the first connection to a new SQLite file migrates for 7 s
ENVIRONMENT = {  # read by mlflow when it is imported; what the user has set wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the spool is sent again anyway
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

_V = TypeVar("_V", str, float)


class MLflowTracker:
    """Logs a search as one parent run, and its evaluated trials as children.

    Args:
        uri: tracking URI; None takes `MLFLOW_TRACKING_URI`, else an SQLite file in `out`.
        out: folder of the search; holds the spool `mlflow.spool.jsonl`.
        experiment: name of the MLflow experiment, made when it does not exist.
        state: remembers which run is this search's and what was sent; None is `mlflow.json` in `out`.
        finish_s: how long `finish` waits for what is left to send.
        retry_s: pause after a failed attempt.
    """

    def __init__(
        self,
        uri: str | None,
        out: Path,
        experiment: str,
        state: Path | None = None,
        finish_s: float = FINISH_S,
        retry_s: float = RETRY_S,
    ) -> None:
        out = out.resolve()
        given = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = given or f"sqlite:///{out / 'mlflow.db'}"
        self._artifacts = None if given else (out / "mlartifacts").as_uri()
        self._experiment = experiment
        self._spool = Spool(out / "mlflow.spool.jsonl", state or out / "mlflow.json", self.uri)
        self._finish_s, self._retry_s = finish_s, retry_s
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._warned = False
        self._store: _Store | None = None

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open the parent run, or go on with it; sends what an earlier start left in the spool."""
        self._put("start", name=name, params=_texts(params), tags=_texts(tags))
        self._closing.clear()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
            self._thread.start()

    def trial(
        self,
        number: int,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Log a trial as a child run; a number that was logged before is left alone."""
        self._put("trial", number=number, params=_texts(params), metrics=_numbers(metrics), tags=_texts(tags))

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log stepped metrics on the parent."""
        self._put("progress", step=step, metrics=_numbers(metrics))

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Attach files or folders to the parent; they are read when they are sent."""
        self._put("artifacts", files={key: str(path.resolve()) for key, path in files.items()})

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Close the parent and wait, a bounded time, until all is sent."""
        self._put("finish", metrics=_numbers(metrics), status=status)
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._finish_s)
        if self._spool.peek() is not None:
            log.warning("MLflow at %s lacks some of this search; --resume sends the rest", _shown(self.uri))

    def _put(self, kind: str, **fields: object) -> None:
        try:
            self._spool.append({"kind": kind, "at": int(time.time() * 1000), **fields})
        except OSError as error:
            self._warn(f"cannot write the MLflow spool: {error}")
        self._wake.set()

    def _run(self) -> None:
        failures = 0
        while (entry := self._next()) is not None:
            event, end = entry
            try:
                self._connected(event["at"]).send(event)
            except Exception as error:  # a border: tracking must not stop a search
                connected, failures = self._store is not None, failures + 1
                closing, worn_out = self._closing.is_set(), failures >= TRIES
                if connected and (_hopeless(error) or (worn_out and not closing)):
                    self._warn(f"MLflow refused an event ({event['kind']}), which is left out: {error}")
                else:
                    self._warn(f"MLflow at {self.uri} fails, the search goes on: {error}")
                    self._store = None
                    if closing and worn_out:
                        return
                    self._closing.wait(self._retry_s)
                    continue
            self._spool.done(end)
            failures = 0

    def _next(self) -> tuple[Event, int] | None:
        """The next event to send, waiting for one; None when there are none and there will be none."""
        while True:
            closing = self._closing.is_set()  # asked first: `finish` writes its event, then closes
            entry = self._spool.peek()
            if entry is not None or closing:
                return entry
            self._wake.wait()
            self._wake.clear()

    def _connected(self, at: int) -> _Store:
        if self._store is None:
            self._store = _Store(self.uri, self._experiment, self._artifacts, self._spool.search, at)
        return self._store

    def _warn(self, text: str) -> None:
        log.log(logging.DEBUG if self._warned else logging.WARNING, "%s", _shown(text))
        self._warned = True


class _Store:
    """A connection to MLflow and the parent run; sending an event twice is the same as once."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None, search: str, at: int) -> None:
        self._client = _client(uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(experiment, artifacts)
        )
        runs = self._client.search_runs([self._experiment], f"tags.`{SEARCH_TAG}` = '{search}'")
        self._parent: str = (
            runs[0].info.run_id
            if runs
            else self._client.create_run(self._experiment, at, {SEARCH_TAG: search}).info.run_id
        )
        self._children = dict(self._logged())

    def send(self, event: Event) -> None:
        """Log one event."""
        at = event["at"]
        match event["kind"]:
            case "start":
                self._client.update_run(self._parent, status="RUNNING", name=event["name"])
                self._log(self._parent, at, params=event["params"], tags=event["tags"])
            case "trial":
                self._trial(event)
            case "progress":
                self._log(self._parent, at, metrics=event["metrics"], step=event["step"])
            case "artifacts":
                for folder, path in event["files"].items():
                    send = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
                    send(self._parent, path, folder or None)
            case "finish":
                self._log(self._parent, at, metrics=event["metrics"])
                self._client.set_terminated(self._parent, event["status"], at)

    def _trial(self, event: Event) -> None:
        number, at = str(event["number"]), event["at"]
        run, finished = self._children.get(number, (None, False))
        if finished:
            return
        if run is None:
            tags = {PARENT_TAG: self._parent, TRIAL_TAG: number}
            name = f"trial-{int(number):04d}"
            run = self._client.create_run(self._experiment, at, tags, name).info.run_id
        self._children[number] = (run, False)
        self._log(run, at, event["params"], event["metrics"], event["tags"])
        self._client.set_terminated(run, "FINISHED", at)
        self._children[number] = (run, True)

    def _logged(self) -> Iterator[tuple[str, tuple[str, bool]]]:
        token: str | None = None
        query = f"tags.`{PARENT_TAG}` = '{self._parent}'"
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            for run in page:
                yield run.data.tags.get(TRIAL_TAG, ""), (run.info.run_id, run.info.status == "FINISHED")
            token = page.token
            if not token:
                return

    def _log(
        self,
        run: str,
        at: int,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # a param cannot change: a resumed search with other settings keeps the first ones
        kept = self._client.get_run(run).data.params if params else {}
        new_params = [Param(k, v[:MAX_PARAM]) for k, v in _keys(params).items() if k not in kept]
        new_metrics = [Metric(k, v, at, step) for k, v in _keys(metrics).items()]
        new_tags = [RunTag(k, v[:MAX_TAG]) for k, v in _keys(tags).items()]
        for i in range(0, max(len(new_params), len(new_metrics), len(new_tags)), BATCH):
            part = slice(i, i + BATCH)
            self._client.log_batch(run, new_metrics[part], new_params[part], new_tags[part])


def _client(uri: str) -> MlflowClient:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # mlflow 3.17 under sqlalchemy 2.1; nothing a user could act on
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _hopeless(error: Exception) -> bool:
    """Whether sending the event again cannot help: the store refuses its content, or its file is gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
    return isinstance(error, FileNotFoundError)


def _keys(values: Mapping[str, _V] | None) -> dict[str, _V]:
    """Names as MLflow takes them: `fid_digits@512` becomes `fid_digits_512`."""
    return {re.sub(r"[^\w\-./: ]", "_", key)[:MAX_KEY]: value for key, value in (values or {}).items()}


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def _shown(text: str) -> str:
    """A text without the passwords of its URIs."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)
