"""Certification: durable parts, what a tier may take, notes and floors, no NaN."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.scoring.case import Case, make_cases
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.measurement import Measurement
from autotune.search.certify import Certified
from autotune.search.dispatch import Dispatcher
from autotune.search.executor import LocalExecutor, Task
from autotune.search.export import surely_holds
from autotune.search.floors import notes, uncached_floors
from autotune.search.numbers import rounded, to_json
from autotune.search.objective import Bound
from autotune.search.parts import Job, PartStore, cut, joined, measure
from autotune.search.scorer import Scorer
from tests.search.support import STEPS, FormulaFactory, Search
from xslim.policy.policy import Policy

HALF, THIRD = Policy.from_pattern("F." * (STEPS // 2)), Policy.from_pattern("F.." * (STEPS // 3))
CASES = make_cases([0, 1, 2], 0, 70, 0)[1]


class RecordingExecutor(LocalExecutor):
    """Keeps what was submitted."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        super().submit(task)


def dispatcher() -> tuple[Dispatcher, RecordingExecutor]:
    executor = RecordingExecutor()
    executor.start(FormulaFactory())
    return Dispatcher(executor), executor


def never() -> bool:
    return False


def same(one: Measurement, other: Measurement) -> bool:
    a, b = one.quality, other.quality
    rows = all(np.array_equal(a.rows[name], b.rows[name]) for name in {*a.rows, *b.rows})
    features = all(np.array_equal(a.features[name], b.features[name]) for name in {*a.features, *b.features})
    plain = replace(a, rows={}, features={}, trace_sha256="") == replace(
        b, rows={}, features={}, trace_sha256=""
    )
    return rows and features and plain and one.latency == other.latency


@pytest.mark.parametrize(("batch", "rounds", "sizes"), [
    (8, 1, [8, 16, 16, 16, 14]),
    (3, 2, [6, 18, 18, 18, 10]),
    (32, 1, [32, 32, 6]),
    (8, 3, [24, 16, 16, 14]),
    (8, 0, [16, 16, 16, 16, 6]),
    (100, 1, [70]),
])  # fmt: skip
def test_parts_are_whole_batches_and_the_first_is_timed(batch: int, rounds: int, sizes: list[int]) -> None:
    parts = cut(Job(HALF, CASES, rounds), batch)
    assert [len(part.cases) for part in parts] == sizes
    assert [case for part in parts for case in part.cases] == list(CASES)
    assert [part.rounds for part in parts] == [rounds, *[0] * (len(parts) - 1)]


def test_parts_together_are_the_whole() -> None:
    evaluator = FormulaEvaluator(STEPS)
    whole = evaluator.evaluate(HALF, CASES, 1)
    parts = [evaluator.evaluate(part.policy, part.cases, part.rounds) for part in cut(Job(HALF, CASES, 1), 8)]
    assert len(parts) > 2
    again = joined(parts)
    assert again.latency is not None
    assert same(replace(again, latency=whole.latency), whole)


def test_a_part_is_kept_bit_for_bit(tmp_path: Path) -> None:
    store, job = PartStore(tmp_path, {"model": "m"}), Job(HALF, CASES[:5], 1)
    measured = FormulaEvaluator(STEPS).evaluate(HALF, CASES[:5], 1)
    assert store.get(job) is None
    store.put(job, measured)
    found = store.get(job)
    assert found is not None
    assert same(found, measured)
    assert found.quality.trace_sha256 == measured.quality.trace_sha256
    others = [
        PartStore(tmp_path, {"model": "n"}).get(job),
        store.get(replace(job, rounds=0)),
        store.get(replace(job, policy=THIRD)),
        store.get(replace(job, cases=CASES[:4])),
    ]
    assert others == [None] * 4


def test_a_stopped_measurement_goes_on_where_it_stopped(tmp_path: Path) -> None:
    jobs = [Job(HALF, CASES, 1, "half"), Job(THIRD, CASES, 1, "third")]
    store = PartStore(tmp_path, {})
    first, executor = dispatcher()
    assert list(measure(first, jobs, 8, store, lambda: len(executor.tasks) >= 7)) != []
    assert len(executor.tasks) == 7  # of 2 x 5 parts
    second, executor = dispatcher()
    found = {job.tag: result for job, result in measure(second, jobs, 8, store, never)}
    assert len(executor.tasks) == 3
    third, executor = dispatcher()
    again = {job.tag: result for job, result in measure(third, jobs, 8, store, never)}
    assert executor.tasks == []
    for tag, policy in (("half", HALF), ("third", THIRD)):
        one, other = found[tag], again[tag]
        assert isinstance(one, Measurement)
        assert isinstance(other, Measurement)
        assert same(one, other)
        assert one.quality.actions == FormulaEvaluator(STEPS).actions(policy)


def test_a_damaged_part_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, job = PartStore(tmp_path, {}), Job(HALF, CASES, 1)
    for _ in measure(dispatcher()[0], [job], 8, store, never):
        pass
    damaged = sorted(tmp_path.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    second, executor = dispatcher()
    ((_, result),) = measure(second, [job], 8, store, never)
    assert isinstance(result, Measurement)
    assert len(executor.tasks) == 1
    assert sum("damaged" in record.getMessage() for record in caplog.records) == 1


def test_a_job_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    executor = LocalExecutor()
    executor.start(FormulaFactory(fails=lambda policy: policy == HALF))
    jobs = [Job(HALF, CASES, 1, "half"), Job(THIRD, CASES, 1, "third")]
    results = measure(Dispatcher(executor), jobs, 8, PartStore(tmp_path, {}), never)
    found = {job.tag: result for job, result in results}
    assert found["half"] == "RuntimeError: failing on purpose"
    assert isinstance(found["third"], Measurement)


def test_a_resumed_search_measures_no_candidate_twice(tmp_path: Path) -> None:
    """The driver dies between certification and export: only the summary is missing."""
    search, executor = Search(tmp_path), RecordingExecutor()
    first = search.run(executor=executor).summary
    assert sum(task.kind == "evaluate" for task in executor.tasks) > 14
    (tmp_path / "summary.json").unlink()
    executor = RecordingExecutor()
    second = search.run(executor=executor, resume=True).summary
    assert [task.kind for task in executor.tasks] == ["baseline"]
    for key in ("front", "tiers", "dropped", "baseline", "warnings"):
        assert second[key] == first[key]


@pytest.mark.parametrize(
    ("bound", "entry", "expected"),
    [
        ({"min": 30.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, False),
        ({"min": 29.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, True),
        ({"max": 31.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, False),
        ({"max": 32.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, True),
    ],
)
def test_a_tier_needs_the_unfavourable_end_of_the_interval(
    bound: dict[str, float], entry: dict[str, object], expected: bool
) -> None:
    certified = Certified(None, {}, {"psnr_p5": entry}, {}, None)  # type: ignore[arg-type]
    assert surely_holds({"psnr_p5": Bound(**bound)}, certified) is expected


def numbers(data: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a summary, with its key."""
    if isinstance(data, dict):
        for name, item in data.items():
            yield from numbers(item, f"{key}.{name}")
    elif isinstance(data, list):
        for i, item in enumerate(data):
            yield from numbers(item, f"{key}.{i}")
    elif isinstance(data, float):
        yield key, data


def test_tiers_hold_their_bounds_surely_and_no_number_is_nan(tmp_path: Path) -> None:
    search = Search(tmp_path, {"tiers": {"low": {"psnr_p5": {"min": 12.0}}}})
    tiers = search.run().summary["tiers"]
    assert tiers["low"]["holdout"]["psnr_p5"]["ci95"][0] >= 12.0
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    found = dict(numbers(summary))
    assert len(found) > 50
    assert [key for key, value in found.items() if not math.isfinite(value)] == []
    worst = tiers["low"]["holdout"]["psnr"]["worst"]
    assert worst["seed"] in {case.seed for case in make_cases([0, 1, 2], 0, 6, 0)[1]}
    floor = summary["baseline"]["two_uncached"]["fid"]
    assert (floor["n"], floor["against"]) == (3, 3)
    assert tiers["low"]["holdout"]["fid"]["two_uncached"] == floor


def test_a_number_that_is_none_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    data = {"a": [1.0, math.nan], "b": {"c": -math.inf}, "d": 1 / 3, "e": (True, None, "x", 7)}
    with caplog.at_level(logging.WARNING):
        clean = rounded(data)
    assert clean == {"a": [1.0, None], "b": {"c": None}, "d": 0.333333, "e": [True, None, "x", 7]}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["a.1 is nan", "b.c is -inf"]
    assert json.loads(to_json(clean)) == clean
    with pytest.raises(ValueError, match="JSON"):
        to_json(data)


def baseline(count: int) -> Measurement:
    return FormulaEvaluator(STEPS).baseline([Case(0, seed) for seed in range(count)], 1)


def test_the_floor_is_between_uncached_sets_of_the_measured_size() -> None:
    measured = baseline(40)
    pool = np.random.default_rng(0).normal(size=(500, measured.quality.features["fid"].shape[1]))
    given = uncached_floors(measured, Scorer({"fid": pool}))
    assert set(given) == {"fid"}
    assert (given["fid"].n, given["fid"].against) == (40, 460)
    own = uncached_floors(measured, Scorer(measured.quality.features))
    assert (own["fid"].n, own["fid"].against) == (20, 20)
    assert own["fid"].value > given["fid"].value > 0, "the smaller the sets, the larger the bias"


@pytest.mark.parametrize(("count", "expected"), [(6, 5), (30, 4), (120, 3), (2000, 2)])
def test_each_note_is_one_line(count: int, expected: int) -> None:
    measured = baseline(count)
    floors = uncached_floors(measured, Scorer(measured.quality.features))
    found: Sequence[str] = notes(measured, floors, {"fid": f"fid_digits@{count}", "kid": "kid_digits"})
    assert len(found) == len(set(found)) == expected
    assert all("\n" not in line for line in found)
    assert sum("two samples of the reference" in line for line in found) == 2
    assert any("5 % tail" in line for line in found) is (count < 100)
    assert any("mostly bias" in line for line in found) is (count < 2000)
