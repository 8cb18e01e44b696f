"""The search loop on a formula: counts, repeats, failures, and what the study is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autotune.search.dispatch import RunBrokenError
from autotune.search.executor import LocalExecutor, Task, TaskResult
from autotune.search.identity import effective_key
from autotune.search.samplers import sampler_for
from autotune.search.store import RunFolder
from tests.search.support import Search
from xslim.errors import ConfigError
from xslim.policy.policy import Pattern, Policy


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.trials]


def is_pattern(policy: Policy) -> bool:
    return isinstance(policy.controller, Pattern)


class Nth:
    """Fails on the policies with some numbers, counted from 0."""

    def __init__(self, *numbers: int) -> None:
        self.numbers, self.seen = numbers, 0

    def __call__(self, policy: Policy) -> bool:
        self.seen += 1
        return self.seen - 1 in self.numbers


def test_counts_files_and_study_agree(tmp_path: Path) -> None:
    search = Search(tmp_path)
    outcome = search.run()
    assert not outcome.interrupted
    rows, trials = search.rows, search.trials
    assert states(search) == ["COMPLETE"] * 14
    assert [row.trial for row in rows] == [trial.number for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert trial.values == [row.scalars["latency"], row.scalars["psnr"]]
        assert trial.user_attrs["actions"] == row.actions
    repeated = [row for row in rows if row.duplicate_of is not None]
    assert outcome.summary["trials"] == {
        "complete": 14,
        "pruned": 0,
        "failed": 0,
        "deduplicated": len(repeated),
    }
    assert json.loads((tmp_path / "summary.json").read_text()) == outcome.summary
    assert search.study.directions == [
        optuna.study.StudyDirection.MINIMIZE,
        optuna.study.StudyDirection.MAXIMIZE,
    ]


def test_warm_starts_come_first(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.warm_starts": 7})
    search.run()
    sources = [row.source for row in search.rows]
    assert sources[:8] == ["warm start"] * 8, "the seed of the space and seven"
    assert set(sources[8:]) <= {"screening", "sampler", "neighbour"}
    assert [trial.user_attrs.get("source", "sampler") for trial in search.trials] == sources


def test_constraints_are_the_bounds(tmp_path: Path) -> None:
    search = Search(tmp_path, {"bounds": {"psnr_p5": {"min": 12.0}, "lpips": {"max": 0.3}}})
    search.run()
    rows = search.rows
    broken = 0
    for trial, row in zip(search.trials, rows, strict=True):
        assert list(trial.constraints) == ["lpips", "psnr_p5"]
        assert (trial.constraints["psnr_p5"] > 0) == (row.scalars["psnr_p5"] < 12)
        assert (trial.constraints["lpips"] > 0) == (row.scalars["lpips"] > 0.3)
        broken += max(trial.constraints.values()) > 0
    assert 0 < broken < len(rows)
    best = {trial.number for trial in search.study.best_trials}
    assert all(rows[number].scalars["psnr_p5"] >= 12 for number in best)


TINY_SPACE = {
    "families": {
        "pattern": {
            "base": {"controller": {"kind": "pattern", "steps": "F"}},
            "params": {
                "schedule.full_steps": {"type": "int", "low": 3, "high": 5},
                # no refresh is asked for, so the budget changes nothing
                "token.budget": {"type": "float", "low": 0.2, "high": 0.8},
            },
        }
    }
}


def test_points_that_do_the_same_are_measured_once(tmp_path: Path) -> None:
    drawn = Nth()
    search = Search(tmp_path, {"search.trials": 20}, space=TINY_SPACE)
    outcome = search.run(drawn)
    rows = search.rows
    first = {row.trial: row for row in rows if row.duplicate_of is None}
    assert len(rows) == 20
    assert len(first) == 3
    assert outcome.summary["trials"]["deduplicated"] == 17
    front = len({member["actions"] for member in outcome.summary["front"]})
    assert drawn.seen == 3 + 2 * front  # certified in two parts: 2 timed cases, and the other 4
    for row in rows:
        if row.duplicate_of is not None:
            assert row.scalars == first[row.duplicate_of].scalars
            assert row.duplicate_of < row.trial


def test_the_key_leaves_out_what_is_never_reached() -> None:
    def key(steps: str, **budgets: float) -> str:
        parts = {part: {"budget": budget} for part, budget in budgets.items()}
        return effective_key(Policy.parse({"controller": {"kind": "pattern", "steps": steps}, **parts}))

    assert key("F..F", token=0.2, block=0.3) == key("F..F", token=0.7, block=0.9)
    assert key("F.TF", token=0.2, block=0.3) == key("F.TF", token=0.2, block=0.9)
    assert key("F.TF", token=0.2) != key("F.TF", token=0.7)
    assert key("F.BF", block=0.2) != key("F.BF", block=0.7)
    assert key("F..F") != key("F.F.")
    online = {"controller": {"kind": "dual-threshold", "critical": 0.3}}
    assert effective_key(Policy.parse({**online, "token": {"budget": 0.2}})) != effective_key(
        Policy.parse({**online, "token": {"budget": 0.3}})
    )


def test_the_same_work_is_timed_once(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 30})
    search.run()
    latencies: dict[str, set[float]] = {}
    for row in search.rows:
        latencies.setdefault(row.trace_sha256, set()).add(row.scalars["latency"])
    assert len(latencies) < 30
    assert all(len(found) == 1 for found in latencies.values())


def test_a_trial_that_raises_is_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    search = Search(tmp_path)
    outcome = search.run(Nth(1, 4, 5))
    assert states(search).count("FAIL") == 3
    assert states(search).count("COMPLETE") == 14
    assert outcome.summary["trials"]["failed"] == 3
    failed = [trial for trial in search.trials if trial.state == TrialState.FAIL]
    for trial in failed:
        assert "Traceback" in trial.user_attrs["error"]
        assert trial.user_attrs["error"].rstrip().endswith("RuntimeError: failing on purpose")
    assert not {row.trial for row in search.rows} & {trial.number for trial in failed}


def test_three_failures_in_a_row_break_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    search = Search(tmp_path)
    with pytest.raises(RunBrokenError, match="3 trials in a row failed: RuntimeError: failing on purpose"):
        search.run(Nth(5, 6, 7))
    assert states(search)[:8] == ["COMPLETE"] * 5 + ["FAIL"] * 3
    assert len(search.rows) == 5
    assert not (tmp_path / "summary.json").exists()
    before = search.rows
    outcome = search.run(resume=True)
    assert search.rows[:5] == before
    assert outcome.summary["trials"]["complete"] == 14
    assert outcome.summary["trials"]["failed"] == 3


class LosingExecutor(LocalExecutor):
    """Loses the worker under the tasks with some numbers, so many times each."""

    def __init__(self, losses: dict[int, int]) -> None:
        super().__init__()
        self.losses, self.submitted = dict(losses), []

    def submit(self, task: Task) -> None:
        self.submitted.append(task.id)
        super().submit(task)

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        if self._queue and self.losses.get(self._queue[0].id, 0):
            task = self._queue.popleft()
            self.losses[task.id] -= 1
            return [TaskResult(task, error="the worker died", lost=True)]
        return super().wait(timeout_s)


def test_a_lost_task_runs_once_more(tmp_path: Path) -> None:
    executor = LosingExecutor({0: 1, 14: 1, 15: 2})  # 0 is the profile, 1 to 11 its probes, 12 the baseline
    search = Search(tmp_path)
    outcome = search.run(executor=executor)
    assert [executor.submitted.count(task) for task in (0, 14, 15)] == [2, 2, 2]
    assert outcome.summary["trials"]["complete"] == 14
    (failed,) = [trial for trial in search.trials if trial.state == TrialState.FAIL]
    assert failed.user_attrs["error"] == "the worker died"


class FaultyExecutor(LocalExecutor):
    """Finds the input at fault when the uncached model is measured."""

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        if self._queue and self._queue[0].kind == "baseline":
            return [
                TaskResult(self._queue.popleft(), error="...", fault="model.path: got a picture that is none")
            ]
        return super().wait(timeout_s)


def test_an_input_at_fault_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: got a picture"):
        Search(tmp_path).run(executor=FaultyExecutor())


def test_a_candidate_whose_pictures_cannot_be_scored_is_no_fault_of_the_input(tmp_path: Path) -> None:
    seen: list[Policy] = []

    def diverges(policy: Policy) -> bool:
        seen.append(policy)
        if len(seen) == 2:
            raise ConfigError("got NaN", key="images")
        return False

    outcome = Search(tmp_path).run(diverges)
    assert outcome.summary["trials"]["failed"] == 1
    assert outcome.summary["trials"]["complete"] == 14


def test_resuming_a_longer_search_forgets_the_shorter_ones_summary(tmp_path: Path) -> None:
    Search(tmp_path, {"search.trials": 4}).run()

    def dies(policy: Policy) -> bool:
        raise RuntimeError("failing on purpose")

    with pytest.raises(RunBrokenError):
        Search(tmp_path).run(dies, resume=True)
    assert not (tmp_path / "summary.json").exists()
    assert Search(tmp_path).run(resume=True).summary["trials"]["complete"] == 14


def test_seconds_end_a_search(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.max_seconds": 1e-6})
    outcome = search.run()
    assert outcome.summary["trials"]["complete"] < 14
    assert Search(tmp_path).run(resume=True).summary["trials"]["complete"] == 14


def test_every_trial_has_a_seed_of_its_own() -> None:
    def first(seed: int, number: int) -> float:
        study = optuna.create_study(sampler=sampler_for("random", seed, number))
        return study.ask().suggest_float("x", 0, 1)

    assert len({first(seed, number) for seed in range(3) for number in range(20)}) == 60
    assert first(1, 7) == first(1, 7)


def test_the_same_seed_searches_the_same_points(tmp_path: Path) -> None:
    # neither family's points depend on what was measured before the sampler models anything
    same = {
        "search.sampler": "random",
        "search.screening": False,
        "search.warm_starts": 6,
        "search.trials": 10,
    }
    other = {**same, "search.seed": 1}
    searches = [Search(tmp_path / str(i), changes) for i, changes in enumerate((same, same, other))]
    for search in searches:
        search.run()
    params = [[trial.params for trial in search.trials] for search in searches]
    assert params[0] == params[1]
    assert params[0][:7] == params[2][:7], "warm starts need no luck"
    assert params[0][7:] != params[2][7:]


@pytest.mark.parametrize("objectives", [["compute_fraction", "lpips"], ["latency", "fid", "psnr"]])
def test_other_objectives(tmp_path: Path, objectives: list[str]) -> None:
    sampled = {"search.screening": False, "search.warm_starts": 3}  # the volume begins at 15 dB
    search = Search(tmp_path, {"objectives": objectives, **sampled})
    outcome = search.run()
    assert outcome.summary["hypervolume"] > 0
    assert outcome.summary["front"]
    for trial, row in zip(search.trials, search.rows, strict=True):
        assert trial.values == [row.scalars[name] for name in objectives]


def test_the_hypervolume_never_falls(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    outcome = Search(tmp_path).run(show=lambda s: seen.append((s.trials.done, s.trials.hypervolume)))
    assert list(dict.fromkeys(done for done, _ in seen)) == list(range(15))
    volumes = [volume for _, volume in seen]
    assert volumes == sorted(volumes)
    assert outcome.summary["hypervolume"] == pytest.approx(volumes[-1], rel=1e-5)


def test_a_row_that_was_never_told_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(tmp_path)

    def crash(*_: object) -> None:
        if len(RunFolder(tmp_path).rows()) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        from autotune.search import trial_book

        tell = trial_book.tell
        patch.setattr(trial_book, "tell", lambda *args: (crash(), tell(*args)))
        with pytest.raises(KeyboardInterrupt):
            search.run()
    assert states(search)[:5] == ["COMPLETE"] * 4 + ["RUNNING"]
    outcome = search.run(resume=True)
    assert outcome.summary["trials"] == {**outcome.summary["trials"], "complete": 14, "failed": 0}
    assert [row.trial for row in search.rows] == list(range(14))
    assert states(search) == ["COMPLETE"] * 14
    told = search.trials[4]
    assert told.values == [search.rows[4].scalars[name] for name in ("latency", "psnr")]
    assert list(told.constraints) == ["psnr_p5"]


def test_a_point_in_flight_at_a_crash_is_tried_again(tmp_path: Path) -> None:
    def crash(policy: Policy) -> bool:
        raise KeyboardInterrupt

    class CrashAt(Nth):
        def __call__(self, policy: Policy) -> bool:
            return super().__call__(policy) and crash(policy)

    search = Search(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search.run(CrashAt(3))
    lost = search.trials[3]
    assert lost.state == TrialState.RUNNING
    outcome = search.run(resume=True)
    (again,) = [trial for trial in search.trials if trial.user_attrs.get("retry_of") == 3]
    assert again.params == lost.params
    assert search.trials[3].state == TrialState.FAIL
    assert outcome.summary["trials"]["complete"] == 14
