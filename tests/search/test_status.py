"""The status of a search: what it counts, its line, its file, and how it follows a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.search.executor import LocalExecutor, Task
from autotune.search.objective import Bound
from autotune.search.progress import Progress, WatchedExecutor
from autotune.search.status import (
    Best,
    Status,
    Trials,
    Workers,
    best_at_bounds,
    duration,
    line,
    read_status,
)
from autotune.search.store import RunFolder
from autotune.search.trial_row import TrialRow
from tests.search.support import Search


def row(trial: int, **scalars: float) -> TrialRow:
    return TrialRow(trial, "pattern", {}, {}, scalars, "F", "")


ROWS = [
    row(0, speedup=1.2, compute_fraction=0.8, psnr_p5=40.0),
    row(1, speedup=2.0, compute_fraction=0.4, psnr_p5=31.0),
    row(2, speedup=1.9, compute_fraction=0.3, psnr_p5=30.0),
    row(3, speedup=3.0, compute_fraction=0.2, psnr_p5=20.0),
]
TIERS = {name: {"psnr_p5": Bound(min=limit)} for name, limit in (("high", 45.0), ("fast", 30.0))}


def test_the_best_at_each_bound_is_the_fastest_that_holds_it() -> None:
    assert best_at_bounds(ROWS, TIERS, {"psnr_p5": Bound(min=35.0)}) == {
        "bounds": Best(0, 1.2, "speedup"),
        "high": None,
        "fast": Best(1, 2.0, "speedup"),
    }
    assert best_at_bounds([], TIERS, {}) == {"high": None, "fast": None}


def test_without_timing_it_is_the_one_that_computes_least() -> None:
    untimed = [row(r.trial, **{k: v for k, v in r.scalars.items() if k != "speedup"}) for r in ROWS]
    assert best_at_bounds(untimed, TIERS, {})["fast"] == Best(2, 0.3, "compute_fraction")


STATUS = Status(
    experiment="dit-digits",
    phase="searching: 24 trials on 8 cases",
    wanted=24,
    running=3,
    trials=Trials(
        done=12,
        failed=1,
        repeated=2,
        front=5,
        hypervolume=0.21764,
        best={"high": Best(7, 1.6249, "speedup"), "fast": Best(3, 0.31, "compute_fraction"), "top": None},
        images=80,
    ),
    workers=Workers(busy=2, idle=1, dead=1),
    gpu=True,
    worker_seconds=312.4,
    elapsed_s=190.0,
)


def test_the_line() -> None:
    assert line(STATUS) == (
        "12/24 trials, hypervolume 0.2176, high 1.62x, fast 0.310 of the compute, top none, 1 failed, "
        "1 workers dead"
    )
    assert line(Status("x", "", 4).with_eta(0, 1.0)) == "0/4 trials, hypervolume 0.0000"


def test_the_time_left_follows_from_the_pace_of_this_run() -> None:
    # 12 done, 4 of them before this run: 8 in 80 s, 12 to go
    assert STATUS.with_eta(4, 80.0).eta_s == pytest.approx(120.0)
    assert line(STATUS.with_eta(4, 80.0)).endswith(", ETA 2 min")
    assert STATUS.with_eta(12, 80.0).eta_s is None


def test_curves_for_a_tracker() -> None:
    assert STATUS.trials.metrics() == {
        "hypervolume": 0.21764,
        "front": 5.0,
        "best_speedup/high": 1.6249,
        "best_compute/fast": 0.31,
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3570, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (2e5, "2 d 07 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_status_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(STATUS.to_json())
    assert read_status(tmp_path) == STATUS
    for other in ("", "[]", "{}", '{"schema_version": 2}', STATUS.to_json().replace("phase", "fase")):
        (tmp_path / "status.json").write_text(other)
        assert read_status(tmp_path) is None
    assert read_status(tmp_path / "none") is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_counts_busy_time_and_writes_once_a_second(tmp_path: Path) -> None:
    clock, seen = Clock(), []
    progress = Progress(Search(tmp_path).experiment, RunFolder(tmp_path), seen.append, clock)
    progress.phase("searching")
    progress.workers(4, 0)
    assert read_status(tmp_path).workers == Workers()  # half a second ago
    clock.now = 2.0
    progress.workers(4, 3)
    clock.now = 12.0
    progress.workers(3, 5)
    assert progress.status.worker_seconds == pytest.approx(30.0)
    assert progress.status.workers == Workers(busy=3, idle=0, dead=1)
    assert read_status(tmp_path) == progress.status == seen[-1]

    again = Progress(Search(tmp_path).experiment, RunFolder(tmp_path), clock=clock)
    assert again.status.worker_seconds == pytest.approx(30.0), "a resumed search goes on counting"


def test_an_unwritable_folder_stops_nothing(tmp_path: Path) -> None:
    progress = Progress(Search(tmp_path).experiment, RunFolder(tmp_path / "gone"))
    progress.phase("searching")
    assert progress.status.phase == "searching"


def test_a_watched_executor_tells_what_is_in_flight(tmp_path: Path) -> None:
    seen: list[int] = []
    progress = Progress(Search(tmp_path).experiment, show=lambda status: seen.append(status.running))
    watched = WatchedExecutor(LocalExecutor(), progress)
    from tests.search.support import FormulaFactory

    watched.start(FormulaFactory())
    for number in range(2):
        watched.submit(Task(number, "probe", (), count=1))
    watched.wait(1.0)
    watched.wait(1.0)
    assert seen == [2, 1, 1, 0]
    watched.close()


def test_a_search_tells_its_status(tmp_path: Path) -> None:
    seen: list[Status] = []
    search = Search(tmp_path)
    outcome = search.run(show=seen.append)
    last = seen[-1]
    assert last.phase == "finished"
    assert read_status(tmp_path) == last
    assert (last.trials.done, last.wanted, last.running) == (14, 14, 0)
    assert last.trials.repeated == outcome.summary["trials"]["deduplicated"]
    assert last.trials.hypervolume == pytest.approx(outcome.summary["hypervolume"], rel=1e-5)
    assert set(last.trials.best) == {"bounds", "high", "fast"}
    phases = list(dict.fromkeys(status.phase.partition(" ")[0] for status in seen))
    assert phases[0] == "starting"
    assert {"searching:", "certifying", "exporting"} < set(phases)
