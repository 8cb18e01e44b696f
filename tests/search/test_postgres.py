"""A study in PostgreSQL: a real server, the same proposals, one driver, no password on the disk."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy

from autotune.search.experiment import Experiment
from autotune.search.optuna_study import recover
from autotune.search.storage import PASSWORD, StudyLock, StudyLostError, check_url, open_storage
from autotune.search.store import RunFolder
from autotune.search.trial_book import TrialBook
from autotune.search.trial_row import TrialRow
from tests.search.postgres import Server, binaries, running
from tests.search.support import EXPERIMENT, SPACE, merged
from tests.search.test_samplers import TWO_FAMILIES, objectives
from xslim.errors import ConfigError

HOLD = """
import sys, time
from autotune.search.storage import StudyLock, open_storage
StudyLock(open_storage(sys.argv[1]), sys.argv[2]).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    found = binaries()
    if found is None:
        pytest.skip("no PostgreSQL server on this machine; apt-get install postgresql")
    with running(found) as server:
        yield server


@pytest.fixture
def server(started: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv(PASSWORD, started.password)
    return started


@pytest.fixture
def claim(server: Server, request: pytest.FixtureRequest) -> Iterator[Callable[..., RunFolder]]:
    """Claims folders for searches of this test's study; gives all of them back."""
    held: list[RunFolder] = []

    def take(path: Path, *, study: str = request.node.name, resume: bool = False) -> RunFolder:
        folder = RunFolder(path)
        folder.acquire()
        held.append(folder)
        folder.claim(experiment(server, study), SPACE, resume)
        return folder

    yield take
    for folder in held:
        folder.release()


def experiment(server: Server, study: str) -> Experiment:
    changes = {"search": {**EXPERIMENT["search"], "storage": server.url, "study": study}}
    return Experiment.parse(merged(EXPERIMENT, changes))


def sequence(
    folder: RunFolder, searched: Experiment, trials: int, dies_at: int | None = None
) -> list[object]:
    """Ask and tell one after the other, rows first; return the points that were told."""
    study = folder.open_study(searched)
    recover(study)
    book = TrialBook(study, TWO_FAMILIES, "tpe", 5, folder.check_study)
    while book.told < trials:
        trial, family, params = book.ask()
        if book.told == dies_at:
            break
        values = objectives(family, params)
        folder.append(TrialRow(trial.number, family, params, {}, {"v": values[0]}, "", ""))
        book.tell(trial, values, {"bound": values[0] - 2}, {"actions": "F" * 300})
    return [trial.params for trial in study.get_trials() if trial.state.name == "COMPLETE"]


def test_proposals_are_those_of_sqlite_also_after_a_crash(
    tmp_path: Path, server: Server, claim: Callable[..., RunFolder], request: pytest.FixtureRequest
) -> None:
    searched = experiment(server, request.node.name)
    first = claim(tmp_path / "a")
    sequence(first, searched, 20, dies_at=14)
    first.release()
    found = sequence(claim(tmp_path / "a", resume=True), searched, 20)
    local = RunFolder(tmp_path / "b")
    plain = Experiment.parse(EXPERIMENT)
    local.acquire()
    local.claim(plain, SPACE, resume=False)
    assert sequence(local, plain, 20) == found
    local.release()
    written = b"".join(path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file())
    assert server.password.encode() not in written
    assert not (tmp_path / "a" / "study.db").exists()


def test_one_driver_and_one_search_per_study(
    tmp_path: Path, server: Server, claim: Callable[..., RunFolder], request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    first = claim(tmp_path / "a")
    first.open_study(experiment(server, name))
    second = claim(tmp_path / "b")
    with pytest.raises(
        ConfigError, match=r"a running search has the study .* name another with search\.study"
    ):
        second.open_study(experiment(server, name))
    assert not (tmp_path / "b" / "manifest.json").exists(), "nothing was started"
    first.release()
    second.release()
    second = claim(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"search\.study: got .*a study of another search"):
        second.open_study(experiment(server, name))
    second.release()
    claim(tmp_path / "b", study="other").open_study(experiment(server, "other"))
    claim(tmp_path / "a", resume=True).open_study(experiment(server, name))


def test_a_killed_driver_leaves_no_lock(server: Server) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, server.url, "killed"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    storage = open_storage(server.url)
    lock = StudyLock(storage, "killed")
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="a running search has the study 'killed'"):
            lock.acquire()
        holder.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while True:  # the server sees the connection end a moment later
        try:
            lock.acquire()
            break
        except ConfigError:
            assert time.monotonic() < until
            time.sleep(0.1)
    lock.release()
    storage.engine.dispose()


def end_connections(server: Server) -> None:
    """End all connections but one, as a server does that restarts."""
    storage = open_storage(server.url)
    others = "FROM pg_stat_activity WHERE usename = 'tuner' AND pid <> pg_backend_pid()"
    with storage.engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_terminate_backend(pid) {others}"))
    storage.engine.dispose()


def test_a_lock_outlives_a_restart_of_the_server_unless_another_takes_it(server: Server) -> None:
    storages = [open_storage(server.url) for _ in range(2)]
    first, second = (StudyLock(storage, "restart") for storage in storages)
    first.acquire()
    first.check()
    server.stop()
    with pytest.raises(StudyLostError, match="the storage does not answer"):
        first.check()
    server.start()
    first.acquire()
    end_connections(server)
    first.check()
    with pytest.raises(ConfigError, match="a running search has the study"):
        second.acquire()
    end_connections(server)
    second.acquire()
    with pytest.raises(StudyLostError, match="another search has taken the study 'restart'"):
        first.check()
    second.release()
    for storage in storages:
        storage.engine.dispose()


def test_a_wrong_password_is_one_line_without_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "not-the-password")
    with pytest.raises(ConfigError, match=f"cannot be opened: .*password.*{PASSWORD}") as caught:
        open_storage(server.url)
    assert "not-the-password" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there(started: Server) -> None:
    url = started.url.replace(str(started.port), "1")
    with pytest.raises(
        ConfigError, match=r"127\.0\.0\.1:1/postgres: cannot be opened: .*check search\.storage"
    ):
        open_storage(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql+psycopg://me:secret@host/db", "holds a password.*leave it out and set AUTOTUNE_STORAGE"),
        ("postgresql://me@host/db?password=secret", "holds a password"),
        ("mysql://me@host/db", r"got a storage of kind 'mysql'; allowed: postgresql\+psycopg://"),
        ("study.db", "got a storage of kind ''; allowed"),
        ("postgresql:host", "allowed"),
        ("postgresql://[host/db", "is no URL"),
    ],
)
def test_urls_at_fault(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"search\.storage") as caught:
        Experiment.parse(merged(EXPERIMENT, {"search.storage": url}))
    assert "secret" not in str(caught.value)


def test_a_driver_that_is_not_installed() -> None:
    with pytest.raises(
        ConfigError, match=r"its driver is not installed; pip install 'xslim-autotune\[postgres\]'"
    ):
        open_storage("postgresql+asyncpg://me@host/db")
