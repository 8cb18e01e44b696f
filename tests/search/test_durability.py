"""What a crash, a signal or a full disk leaves: nothing lost, nothing counted twice, the same points."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from autotune.search.experiment import Experiment
from autotune.search.storage import disk_full, open_storage
from autotune.search.store import RunFolder
from autotune.search.tracker import NullTracker
from autotune.search.trial_book import TrialBook, places
from tests.search.support import EXPERIMENT, SPACE, Search, merged
from xslim.errors import ConfigError

KILLED, FULL, OTHER = 9, 7, 8
CHANGES = {"search.trials": 15, "search.certify": 1, "cases.search": 2, "cases.holdout": 2}
FORK = multiprocessing.get_context("fork")  # quick: nothing is imported anew


def in_child(work: Callable[[], object]) -> int:
    """Run in a process of its own; return how it ended."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            os._exit(FULL if disk_full(error) else OTHER)
        os._exit(0)

    child = FORK.Process(target=run)
    child.start()
    child.join(100)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def on_call(owner: Any, name: str, number: int, act: Callable[[], None], after: bool) -> None:
    """Make the so-many-th call of a method do something before or after it."""
    original, calls = getattr(owner, name), count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        due = next(calls) == number
        if due and not after:
            act()
        result = original(*args, **kwargs)
        if due and after:
            act()
        return result

    setattr(owner, name, wrapped)


def points(search: Search) -> list[dict[str, Any]]:
    """What was proposed, by place in the search."""
    where = places(search.trials)
    found = {where[trial.number]: trial.params for trial in search.trials}
    return [found[place] for place in sorted(found)]


def check_whole(search: Search, trials: int) -> None:
    """Every told trial has one row with its values, and nothing is left open."""
    told = {t.number: t.values for t in search.trials if t.state == TrialState.COMPLETE}
    rows = search.rows
    assert len(told) == trials
    assert sorted(row.trial for row in rows) == sorted(told)
    for row in rows:
        assert told[row.trial] == [row.scalars["latency"], row.scalars["psnr"]]
    assert {trial.state.name for trial in search.trials} <= {"COMPLETE", "FAIL"}
    for line in (search.folder / "results.jsonl").read_bytes().splitlines():
        json.loads(line)


class FileTracker(NullTracker):
    """Keeps the numbers of the trials that it is shown, across processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def trial(self, number: int, *rest: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{number}\n")

    def numbers(self) -> set[int]:
        return {int(line) for line in self.path.read_text().splitlines()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Search:
    search = Search(tmp_path_factory.mktemp("whole"), CHANGES)
    search.run()
    return search


@pytest.mark.parametrize(
    ("owner", "name", "number", "after"),
    [
        (RunFolder, "append", 4, False),
        (RunFolder, "append", 13, True),
        (optuna.Trial, "set_constraint", 5, True),
        (TrialBook, "tell", 6, True),
        (TrialBook, "ask", 14, True),
    ],
    ids=["drawn", "written", "bounded", "told", "asked"],
)
def test_a_driver_that_dies_anywhere(
    tmp_path: Path, whole: Search, owner: Any, name: str, number: int, after: bool
) -> None:
    search = Search(tmp_path / "run", whole.changes)

    def dies() -> None:
        on_call(owner, name, number, lambda: os._exit(KILLED), after)
        search.run(tracker=shown)

    shown = FileTracker(tmp_path / "shown")
    assert in_child(dies) == KILLED
    assert not (search.folder / "summary.json").exists()
    outcome = search.run(resume=True, tracker=shown)
    check_whole(search, 15)
    assert shown.numbers() == {row.trial for row in search.rows}
    trials = outcome.summary["trials"]
    assert (trials["complete"], trials["failed"]) == (15, 0)
    assert points(search) == points(whole)


@pytest.mark.parametrize("file", ["results.jsonl", "study.db-wal"])
def test_a_full_disk_ends_the_run_and_leaves_nothing_half(tmp_path: Path, whole: Search, file: str) -> None:
    search = Search(tmp_path / "run", whole.changes)

    def fill() -> None:
        size = (search.folder / file).stat().st_size + 30
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def runs_out() -> None:
        on_call(*((RunFolder, "append") if file == "results.jsonl" else (TrialBook, "tell")), 6, fill, False)
        search.run()

    assert in_child(runs_out) == FULL
    assert (search.folder / "results.jsonl").read_bytes().endswith(b"\n")
    assert not list(search.folder.glob(".*.part"))
    search.run(resume=True)
    check_whole(search, 15)
    assert points(search) == points(whole)


def folder_of(path: Path, **changes: Any) -> tuple[RunFolder, Experiment]:
    experiment = Experiment.parse(merged(EXPERIMENT, {k.replace("__", "."): v for k, v in changes.items()}))
    return RunFolder(path), experiment


def test_a_study_of_a_newer_optuna(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v9.0.0.a'"))
    storage.engine.dispose()
    with pytest.raises(ConfigError, match=r"study\.db: was written by a newer Optuna; install that version"):
        open_storage(url)


def test_a_study_of_an_older_optuna(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v2.6.0.a'"))
    storage.engine.dispose()
    with pytest.raises(ConfigError, match="was written by an older Optuna; `optuna storage upgrade"):
        open_storage(url)


def test_a_study_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, but long enough to be read as one" * 30)
    with pytest.raises(ConfigError, match=r"study\.db: cannot be opened: file is not a database; choose"):
        open_storage(f"sqlite:///{tmp_path / 'study.db'}")


def test_results_of_a_study_that_is_gone(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 2})
    search.run()
    for path in tmp_path.glob("study.db*"):
        path.unlink()
    with pytest.raises(
        ConfigError, match=r"results\.jsonl: holds results of trials that the study study\.db"
    ):
        search.run(resume=True)


@pytest.mark.parametrize(
    ("version", "advice"), [(2, "resume with the version of autotune"), (None, "choose another")]
)
def test_a_manifest_of_another_version(tmp_path: Path, version: int | None, advice: str) -> None:
    folder, experiment = folder_of(tmp_path)
    folder.claim(experiment, SPACE, resume=False)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(
        ConfigError, match=rf"manifest\.json: schema_version: got {version}, allowed is 1; {advice}"
    ):
        folder.claim(experiment, SPACE, resume=True)


def test_a_wrong_resume_says_what_differs(tmp_path: Path) -> None:
    folder, experiment = folder_of(tmp_path)
    folder.claim(experiment, SPACE, resume=False)
    other = folder_of(tmp_path, cases__seed=7, model__num_steps=9)[1]
    with pytest.raises(ConfigError, match=r"cases\.seed was 0, now 7; model\.num_steps was 12, now 9; give"):
        folder.claim(other, SPACE, resume=True)
    space = merged(SPACE, {"families.online.seeds": []})
    with pytest.raises(ConfigError, match=r"search_space\.families\.online\.seeds was \[\{.*, now \[\]"):
        folder.claim(experiment, space, resume=True)


@pytest.mark.parametrize(
    ("name", "version", "refused"),
    [
        ("torch", "1.13.1", True),
        ("optuna", "4.9.0", True),
        ("diffusers", "0.30.0", True),
        ("torch", "{minor}.99", False),
        ("optuna", "5.99.1", False),
    ],
)
def test_versions_within_which_results_compare(
    tmp_path: Path, name: str, version: str, refused: bool
) -> None:
    folder, experiment = folder_of(tmp_path)
    folder.claim(experiment, SPACE, resume=False)
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text())
    minor = ".".join(data["versions"][name].split(".")[:2])
    data["versions"][name] = version.format(minor=minor)
    path.write_text(json.dumps(data))
    if refused:
        with pytest.raises(ConfigError, match=f"version of {name} was {version}, now {minor}"):
            folder.claim(experiment, SPACE, resume=True)
    else:
        folder.claim(experiment, SPACE, resume=True)


def test_other_weights_in_the_same_folder(tmp_path: Path) -> None:
    model = tmp_path / "model" / "transformer"
    model.mkdir(parents=True)
    (model / "weights.bin").write_bytes(b"one")
    folder, experiment = folder_of(tmp_path, model__path=str(tmp_path / "model"))
    folder.claim(experiment, SPACE, resume=False)
    (tmp_path / "model").rename(tmp_path / "moved")
    moved = folder_of(tmp_path, model__path=str(tmp_path / "moved"))[1]
    folder.claim(moved, SPACE, resume=True)
    (tmp_path / "moved" / "transformer" / "weights.bin").write_bytes(b"two")
    with pytest.raises(ConfigError, match=r"model_sha256 was '.*, now '"):
        folder.claim(moved, SPACE, resume=True)
