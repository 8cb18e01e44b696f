"""MLflowTracker on a real SQLite store."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autotune.scoring.case import Case, cases_sha256
from autotune.search.executor import RunBrokenError
from autotune.search.mlflow_store import MLflowStore
from autotune.search.mlflow_tracker import MLflowTracker, attach
from autotune.search.spool import Event, Spool
from autotune.search.tracker import Candidate, CaseSet
from xslim.errors import ConfigError

pytestmark = [
    # mlflow 3.17 imports and uses names that its own dependencies have deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    # mlflow leaves connections of its SQLite pool to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file: migrating takes seconds, a copy does not."""
    out = tmp_path_factory.mktemp("empty")
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{out}/mlflow.db').search_experiments()"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment, cwd=out)
    return out / "mlflow.db"


@pytest.fixture
def out(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


def runs(uri: str, experiment: str = "digits"):
    """The parent runs and their children by trial number."""
    from mlflow import MlflowClient  # noqa: TID251  (reads back what was logged)

    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    return client, parents, sorted(children, key=lambda run: run.data.tags["autotune.trial"])


def log_trials(tracker: MLflowTracker, numbers: range) -> None:
    for number in numbers:
        metrics = {"psnr": 30.0 + number, "fid_digits@512": 1.0, "kid": math.nan}
        tracker.trial(number, {"critical": 0.1 * number}, metrics, {"state": "COMPLETE"})


def test_a_search_is_a_parent_with_children_and_artifacts(out: Path) -> None:
    (out / "report.html").write_text("<p>front</p>")
    (out / "presets").mkdir()
    (out / "presets" / "front-00.yaml").write_text("name: x")
    tracker = MLflowTracker(None, out)
    tracker.start("demo", "digits", {"seed": 1, "long": "x" * 7000}, {"device": "cpu"})
    log_trials(tracker, range(2))
    for step in range(3):
        tracker.progress(step, {"hypervolume": 0.1 * step})
    tracker.artifacts({"": out / "report.html", "presets": out / "presets"})
    tracker.finish({"speedup": 2.0}, "FINISHED")

    client, (parent,), children = runs(tracker.uri)
    assert parent.info.run_name == "demo"
    assert parent.info.status == "FINISHED"
    assert parent.data.params["seed"] == "1"
    assert parent.data.params["long"] == "x" * 6000
    assert parent.data.tags["device"] == "cpu"
    assert parent.data.metrics["speedup"] == 2.0
    assert [m.step for m in client.get_metric_history(parent.info.run_id, "hypervolume")] == [0, 1, 2]
    assert [child.data.tags["mlflow.parentRunId"] for child in children] == [parent.info.run_id] * 2
    assert children[1].data.metrics == {"psnr": 31.0, "fid_digits_512": 1.0}
    assert children[1].data.params == {"critical": "0.1"}
    assert {child.info.status for child in children} == {"FINISHED"}
    assert (out / "mlartifacts" / parent.info.run_id / "artifacts" / "report.html").exists()
    listed = [item.path for item in client.list_artifacts(parent.info.run_id, "presets")]
    assert listed == ["presets/front-00.yaml"]
    assert [path.name for path in out.parent.iterdir()] == ["out"], "MLflow left files in the current folder"


def test_resume_goes_on_with_the_same_runs(out: Path) -> None:
    first = MLflowTracker(None, out)
    first.start("demo", "digits", {"trials": 2}, {})
    log_trials(first, range(2))
    first.finish({}, "KILLED")
    state = (out / "mlflow.json").read_text()

    second = MLflowTracker(None, out)
    second.start("demo", "digits", {"trials": 4, "more": 1}, {})
    log_trials(second, range(3))
    second.finish({}, "FINISHED")
    _, (parent,), children = runs(second.uri)
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"trials": "2", "more": "1"}
    assert len(children) == 3

    # killed between the sending of events and the note of it: they are sent again
    (out / "mlflow.json").write_text(json.dumps({**json.loads(state), "sent": {}}))
    third = MLflowTracker(None, out)
    third.start("demo", "digits", {}, {})
    third.finish({}, "FINISHED")
    _, parents, children = runs(third.uri)
    assert (len(parents), len(children)) == (1, 3)


def test_a_dead_server_stops_nothing_and_is_caught_up_later(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MLflowTracker(DEAD, out, retry_s=60)
    with caplog.at_level(logging.WARNING):
        tracker.start("demo", "digits", {"seed": 1}, {})
        begin = time.monotonic()
        log_trials(tracker, range(20))
        assert time.monotonic() - begin < 5
        tracker.finish({"speedup": 2.0}, "FINISHED")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2, warnings
    assert "--resume" in warnings[1]

    again = MLflowTracker(f"sqlite:///{out / 'mlflow.db'}", out)
    again.start("demo", "digits", {"seed": 1}, {})
    again.finish({}, "FINISHED")
    _, (parent,), children = runs(again.uri)
    assert parent.data.metrics["speedup"] == 2.0
    assert len(children) == 20


def test_a_store_that_comes_and_goes_loses_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to reach a store that is down do not count as its refusals."""
    faults = iter([True] * 4 + [False, True] * 3)  # four attempts to connect, then every other call

    class Flapping(MLflowStore):
        def __init__(self, *args: Any) -> None:
            if next(faults, False):
                raise ConnectionError("down")
            super().__init__(*args)

        def send(self, event: Event) -> None:
            if next(faults, False):
                raise ConnectionError("down")
            super().send(event)

    monkeypatch.setattr("autotune.search.mlflow_store.MLflowStore", Flapping)
    tracker = MLflowTracker(f"sqlite:///{out / 'mlflow.db'}", out, retry_s=0.01)
    tracker.start("demo", "digits", {}, {})
    log_trials(tracker, range(5))
    end = time.monotonic() + 60
    while tracker._spool.peek() is not None and time.monotonic() < end:
        time.sleep(0.05)
    tracker.finish({}, "FINISHED")
    _, (parent,), children = runs(tracker.uri)
    assert parent.info.status == "FINISHED"
    assert len(children) == 5
    assert next(faults, None) is None, "all faults were met"


def test_an_event_that_mlflow_refuses_is_left_out(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MLflowTracker(None, out)
    tracker.start("demo", "digits", {}, {})
    tracker.trial(0, {"../up": 1}, {}, {})
    tracker.artifacts({"": out / "missing.html"})
    tracker.trial(1, {}, {"psnr": 1.0}, {})
    tracker.finish({}, "FINISHED")
    _, (parent,), children = runs(tracker.uri)
    assert parent.info.status == "FINISHED"
    assert children[-1].data.metrics == {"psnr": 1.0}
    assert "refused" in caplog.text


def test_the_front_is_tagged_and_untagged(out: Path) -> None:
    tracker = MLflowTracker(None, out)
    tracker.start("demo", "digits", {}, {})
    log_trials(tracker, range(3))
    for front in ([0], [0, 1], [0, 1], [2]):
        tracker.front(front)
    tracker.finish({}, "KILLED")
    assert [child.data.tags["pareto"] for child in runs(tracker.uri)[2]] == ["false", "false", "true"]

    resumed = MLflowTracker(None, out)
    resumed.start("demo", "digits", {}, {})
    resumed.front([1, 2])
    resumed.finish({}, "FINISHED")
    assert [child.data.tags["pareto"] for child in runs(resumed.uri)[2]] == ["false", "true", "true"]


def test_late_trials_are_children_only_on_the_front(out: Path) -> None:
    tracker = MLflowTracker(None, out)
    tracker.start("demo", "digits", {}, {})
    for number, front in ((499, [3]), (500, [3]), (501, [3, 501]), (502, [3, 501])):
        log_trials(tracker, range(number, number + 1))
        tracker.front(front)
    tracker.finish({}, "FINISHED")
    children = runs(tracker.uri)[2]
    assert [child.data.tags["autotune.trial"] for child in children] == ["499", "501"]
    assert [child.data.tags["pareto"] for child in children] == ["false", "true"]


CASES = [Case(0, 5), Case(1, 7), Case(0, 9)]


def test_datasets_carry_the_digest_of_the_cases(out: Path) -> None:
    tracker = MLflowTracker(None, out)
    digest = cases_sha256(CASES)
    sets = [CaseSet(f"digits {use}", use, digest, 3, 2, seed=4) for use in ("search", "holdout")]
    for _ in range(2):  # the second time as after a resume
        tracker.start("demo", "digits", {}, {})
        tracker.datasets(sets)
        tracker.finish({}, "FINISHED")
    _, (parent,), _ = runs(tracker.uri)
    found = {entry.tags[0].value: entry.dataset for entry in parent.inputs.dataset_inputs}
    assert set(found) == {"search", "holdout"}
    assert digest.startswith(found["search"].digest)
    assert len(found["search"].digest) == 36
    assert json.loads(found["search"].profile)["num_rows"] == 3


def test_presets_are_registered_as_candidates(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow  # noqa: TID251  (fetches as a service would)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{out / 'mlflow.db'}")
    file = out / "high.yaml"
    downloaded = []
    for text in ("first", "first", "second"):  # the second time as after a resume
        file.write_text(text)
        tracker = MLflowTracker(None, out)
        tracker.start("demo", "digits", {}, {})
        tracker.register([Candidate("digits-high", file, {"tier": "high"})])
        tracker.finish({}, "FINISHED")
        client, (parent,), _ = runs(tracker.uri)
        version = client.get_model_version_by_alias("digits-high", "candidate")
        assert (version.run_id, version.tags["tier"]) == (parent.info.run_id, "high")
        folder = Path(mlflow.artifacts.download_artifacts("models:/digits-high@candidate"))
        downloaded.append((str(version.version), (folder / "high.yaml").read_text()))
    assert downloaded == [
        ("1", "first"),
        ("1", "first"),
        ("2", "second"),
    ]


def test_files_of_a_shared_sqlite_store_lie_beside_it(out: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.move(out / "mlflow.db", shared / "mlflow.db")
    (out / "report.html").write_text("<p>front</p>")
    tracker = MLflowTracker(f"sqlite:///{shared / 'mlflow.db'}", out)
    tracker.start("demo", "digits", {}, {})
    tracker.artifacts({"": out / "report.html"})
    tracker.finish({}, "FINISHED")
    assert len(list(shared.glob("mlartifacts/*/artifacts/report.html"))) == 1


def test_a_search_that_never_began_logs_nothing(out: Path) -> None:
    tracker = MLflowTracker(None, out)
    tracker.finish({}, "FAILED")
    assert not (out / "mlflow.spool.jsonl").exists()


def test_secrets_do_not_reach_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    tracker = MLflowTracker(DEAD, tmp_path, retry_s=60, finish_s=0.1)
    params = {
        "model.arguments.token": "one-secret",
        "search.storage": "postgresql://user:two-secret@host/db",
        "model.path": "https://hub/hf_abcdefgh/model",
        "model.num_tokens": 12,
    }
    tracker.start("demo", "digits", params, {"password": "three-secret"})
    tracker.trial(0, params, {}, {})
    tracker.finish({}, "FINISHED")
    text = (tmp_path / "mlflow.spool.jsonl").read_text()
    assert "secret" not in text
    assert "hf_abcdefgh" not in text
    assert '"model.num_tokens": "12"' in text
    assert "postgresql://***@host/db" in text


def test_a_password_is_neither_stored_nor_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MLflowTracker("http://user:secret@127.0.0.1:9", tmp_path, retry_s=60)
    tracker.start("demo", "digits", {}, {})
    tracker.finish({}, "FINISHED")
    assert "secret" not in "".join(path.read_text() for path in tmp_path.iterdir())
    assert "secret" not in caplog.text


def test_an_unwritable_folder_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    tracker = MLflowTracker(None, tmp_path / "file" / "out")
    tracker.start("demo", "digits", {}, {})
    tracker.finish({}, "FINISHED")
    assert "cannot write the MLflow spool" in caplog.text


def test_spool_survives_a_torn_line(tmp_path: Path) -> None:
    path, state = tmp_path / "spool", tmp_path / "state"
    spool = Spool(path, state, "a")
    spool.append({"kind": "start", "at": 1})
    with path.open("ab") as file:
        file.write(b'{"kind": "tri')
    spool = Spool(path, state, "a")
    spool.append({"kind": "trial", "at": 2})
    seen = []
    while (entry := spool.peek()) is not None:
        seen.append(entry[0]["at"])
        spool.done(entry[1])
    assert seen == [1, 2]
    assert Spool(path, state, "a").peek() is None
    assert Spool(path, state, "b").peek() is not None
    assert Spool(path, state, "b").search == spool.search


def test_files_are_attached_to_the_run_of_an_ended_search(out: Path) -> None:
    tracker = MLflowTracker(None, out)
    tracker.start("dit", "digits", {}, {})
    tracker.finish({}, "FINISHED")
    (out / "report.html").write_text("<p>front</p>")
    attach(out, [out / "report.html"])
    attach(out, [out / "report.html"])  # again: the newer one replaces it
    (parent,) = runs(tracker.uri)[1]
    assert (out / "mlartifacts" / parent.info.run_id / "artifacts" / "report.html").exists()
    assert parent.info.status == "FINISHED"


def test_files_of_another_search_are_not_attached(out: Path) -> None:
    tracker = MLflowTracker(None, out)
    tracker.start("dit", "digits", {}, {})
    tracker.finish({}, "FINISHED")
    (out / "mlflow.json").write_text('{"search": "another", "sent": {}}')
    with pytest.raises(ConfigError, match="holds no run of this search"):
        attach(out, [out / "mlflow.json"])


def test_a_store_that_does_not_answer_is_told(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "mlflow.json").write_text('{"search": "ab", "sent": {}}')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD.replace("://", "://someone:secret@"))
    with pytest.raises(RunBrokenError, match="--mlflow: MLflow at http") as error:
        attach(out, [out / "mlflow.json"])
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
