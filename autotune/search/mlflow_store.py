"""A connection to MLflow, the only file that imports mlflow. Sending an event twice is the same as once."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.search.spool import Event

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

SEARCH_TAG, TRIAL_TAG, PARETO_TAG = "autotune.search", "autotune.trial", "pareto"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own; its UI folds children under their parent by it
CONTEXT_TAG = "mlflow.data.context"  # likewise: what a dataset was for
SHA_TAG = "sha256"
ALIAS = "candidate"
# MLflow's limits (mlflow/utils/validation.py of 3.17)
MAX_KEY, MAX_PARAM, MAX_TAG, MAX_DIGEST, BATCH = 250, 6_000, 8_000, 36, 100
ENVIRONMENT = {  # read by mlflow when it is imported; what the user has set wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the spool is sent again anyway
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

_V = TypeVar("_V", str, float)


class MLflowStore:
    """The parent run of a search, and its children.

    Args:
        uri: tracking URI.
        experiment: name of the MLflow experiment, made when it does not exist.
        artifacts: where a new experiment keeps its files; None leaves it to the store.
        search: id of the search, by which its parent run is found again.
        at: milliseconds since 1970, for a new parent run.
    """

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
        self._children: dict[str, tuple[str, bool]] = {}  # trial -> run, whether it is whole
        self._front: set[str] = set()
        for number, run in self._logged():
            self._children[number] = (run.info.run_id, run.info.status == "FINISHED")
            if run.data.tags.get(PARETO_TAG) == "true":
                self._front.add(number)

    def send(self, event: Event) -> None:
        """Log one event."""
        handlers: dict[str, Callable[[Event], None]] = {
            "start": self._start,
            "datasets": self._datasets,
            "trial": self._trial,
            "front": self._mark,
            "progress": lambda e: self._log(self._parent, e["at"], metrics=e["metrics"], step=e["step"]),
            "artifacts": self._artifacts,
            "register": self._candidates,
            "finish": self._finish,
        }
        if event["kind"] in handlers:  # a newer version may have spooled others
            handlers[event["kind"]](event)

    def _start(self, event: Event) -> None:
        self._client.update_run(self._parent, status="RUNNING", name=event["name"])
        self._log(self._parent, event["at"], params=event["params"], tags=event["tags"])

    def _finish(self, event: Event) -> None:
        self._log(self._parent, event["at"], metrics=event["metrics"])
        self._client.set_terminated(self._parent, event["status"], event["at"])

    def _datasets(self, event: Event) -> None:
        self._client.log_inputs(self._parent, [_dataset(entry) for entry in event["sets"]])

    def _artifacts(self, event: Event) -> None:
        for folder, path in event["files"].items():
            self._attach(path, folder)

    def _candidates(self, event: Event) -> None:
        for entry in event["candidates"]:
            self._register(**entry)

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
        self._log(run, at, event["params"], event["metrics"], {PARETO_TAG: "false", **event["tags"]})
        if event["tags"].get(PARETO_TAG) == "true":
            self._front.add(number)
        self._client.set_terminated(run, "FINISHED", at)
        self._children[number] = (run, True)

    def _mark(self, event: Event) -> None:
        """Tag the front's children; those that were never logged have none."""
        front = {str(number) for number in event["numbers"]}
        for number in self._children.keys() & (front ^ self._front):
            run, _ = self._children[number]
            self._client.set_tag(run, PARETO_TAG, str(number in front).lower())
            self._front ^= {number}

    def _attach(self, path: str, folder: str) -> None:
        send = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        send(self._parent, path, folder or None)

    def _register(self, name: str, file: str, sha256: str, tags: Mapping[str, str]) -> None:
        """Make a preset the candidate of its registered model; the same preset of this run only once."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        ours = self._client.search_model_versions(f"name = '{name}' and run_id = '{self._parent}'")
        versions = [version for version in ours if version.tags.get(SHA_TAG) == sha256]
        if not versions:
            folder = f"registered/{name}"
            self._attach(file, folder)
            source = f"runs:/{self._parent}/{folder}"
            every = {**tags, SHA_TAG: sha256}
            versions = [
                self._client.create_model_version(
                    name, source, self._parent, tags=every, await_creation_for=0
                )
            ]
        self._client.set_registered_model_alias(name, ALIAS, versions[0].version)

    def _logged(self) -> Iterator[tuple[str, Any]]:
        token: str | None = None
        query = f"tags.`{PARENT_TAG}` = '{self._parent}'"
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            for run in page:
                yield run.data.tags.get(TRIAL_TAG, ""), run
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


def attach(uri: str, search: str, files: Sequence[str]) -> bool:
    """Attach files to the parent run of a search, in whatever experiment it is; whether there is one.

    Args:
        uri: tracking URI.
        search: id of the search.
        files: paths.
    """
    client = _client(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{SEARCH_TAG}` = '{search}'") if experiments else []
    for run in runs[:1]:
        for path in files:
            client.log_artifact(run.info.run_id, path)
    return bool(runs)


def hopeless(error: Exception) -> bool:
    """Whether sending an event again cannot help: the store refuses its content, or its file is gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
    return isinstance(error, FileNotFoundError)


def _client(uri: str) -> MlflowClient:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # mlflow 3.17 under sqlalchemy 2.1; nothing a user could act on
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _dataset(entry: Mapping[str, Any]) -> DatasetInput:
    """The entity that `mlflow.data` would log, with the digest that presets carry."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [{"type": "string", "name": "prompt"}, {"type": "long", "name": "seed"}]
    schema = [{**column, "required": True} for column in columns]
    counts = {"num_rows": entry["cases"], "num_elements": 2 * entry["cases"], "prompts": entry["prompts"]}
    source = {"tags": {"mlflow.source.name": "autotune.scoring.case.make_cases", "seed": entry["seed"]}}
    dataset = Dataset(
        name=entry["name"],
        digest=entry["sha256"][:MAX_DIGEST],
        source_type="code",
        source=json.dumps(source),
        schema=json.dumps({"mlflow_colspec": schema}),
        profile=json.dumps(counts),
    )
    return DatasetInput(dataset, [InputTag(CONTEXT_TAG, entry["context"])])


def _keys(values: Mapping[str, _V] | None) -> dict[str, _V]:
    """Names as MLflow takes them: `fid_digits@512` becomes `fid_digits_512`."""
    return {re.sub(r"[^\w\-./: ]", "_", key)[:MAX_KEY]: value for key, value in (values or {}).items()}
