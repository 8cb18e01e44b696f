"""Paired latency: in which order, how long it goes on, and what is said of the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

import xslim
from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.environment_gpu import GpuReading
from autotune.scoring.latency import (
    FLOOR_AGE_S,
    FLOOR_TIMES,
    PATIENCE,
    WARM_UP_LOOPS,
    Sample,
    WorkerFloor,
    a_a_floor,
    log_ratio_ci95,
    pair_up,
    paired,
    speedup_ci95,
    warm_up,
    with_floor,
)
from autotune.scoring.measurement import Latency
from autotune.scoring.pipeline import PipelineRunner
from tests.scoring.conftest import CASES, HALF


class Script:
    """Times loops by a list of seconds; notes what was asked."""

    def __init__(self, seconds: Iterable[float | Sample]) -> None:
        self._samples = (Sample(s) if isinstance(s, float) else s for s in seconds)
        self.asked: list[tuple[bool, int]] = []

    def __call__(self, candidate: bool, batch: int) -> Sample:
        self.asked.append((candidate, batch))
        return next(self._samples)


def repeated(*seconds: float) -> Iterator[float]:
    return itertools.cycle(seconds)


# pairs


def test_pairs_are_drawn_a_b_b_a(runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[bool] = []
    attach = xslim.attach
    monkeypatch.setattr(
        xslim, "attach", lambda *args, **kwargs: (attached.append(True), attach(*args, **kwargs))[1]
    )
    drawn: list[tuple[int, tuple[Case, ...]]] = []
    draw = PipelineRunner.draw

    def counted(self: PipelineRunner, cases: tuple[Case, ...]) -> Drawn:
        drawn.append((len(attached), tuple(cases)))
        return draw(self, cases)

    monkeypatch.setattr(PipelineRunner, "draw", counted)
    latency = paired(runner, CASES, HALF, 2, 0.03)
    rounds = len(latency.log_ratios) // 2
    assert 2 <= rounds <= 2 * PATIENCE  # more when the pairs disagree
    assert [count for count, _ in drawn] == [
        n for r in range(rounds) for n in (2 * r, *[2 * r + 1], *[2 * r + 2] * 2)
    ]
    # two batches of two in turn; the fifth case would make a smaller one
    assert [cases for _, cases in drawn] == [CASES[2 * (i // 4 % 2) :][:2] for i in range(4 * rounds)]
    assert latency.batches == tuple(i // 2 % 2 for i in range(2 * rounds))
    assert (latency.batch, latency.floor) == (2, 0.03)
    assert len(latency.call_s) == 6
    assert latency.speedup == pytest.approx(np.exp(np.median(latency.log_ratios)))


def test_a_few_cases_are_one_batch(runner: PipelineRunner) -> None:
    latency = paired(runner, CASES[:1], HALF, 1, 0.0)
    assert (latency.batch, latency.batches) == (1, ())


def test_the_ratio_is_of_neighbours() -> None:
    found = pair_up(Script([1.0, 0.5, 0.4, 0.82]), 1, 4, 1, 0.0)
    assert found.log_ratios == pytest.approx((math.log(2), math.log(2.05)))
    assert (found.baseline_s, found.candidate_s) == pytest.approx((0.91, 0.45))
    assert found.speedup == pytest.approx(math.sqrt(2 * 2.05))


def test_pairs_that_disagree_are_followed_by_more() -> None:
    script = Script(itertools.chain([1.0, 0.5, 0.5, 2.0], repeated(1.0, 0.5, 0.5, 1.0)))
    found = pair_up(script, 1, 1, 1, 0.0)
    assert len(found.log_ratios) == 2 * PATIENCE
    assert found.speedup == pytest.approx(2.0)
    assert len(pair_up(Script([1.0, 0.5, 0.5, 1.01]), 1, 1, 1, 0.0).log_ratios) == 2


def test_pairs_that_agree_end_the_rounds_early() -> None:
    steady = pair_up(Script(repeated(1.0, 0.5, 0.501, 1.0)), 1, 1, 20, 0.0)
    assert len(steady.log_ratios) == 6
    loose = pair_up(Script(repeated(1.0, 0.5, 0.52, 1.0)), 1, 1, 5, 0.0)
    assert len(loose.log_ratios) == 10
    tie = pair_up(Script(repeated(1.0, 0.5, 0.52, 1.0)), 1, 1, 5, 0.05)
    assert len(tie.log_ratios) == 6, "within the worker's floor more rounds tell nothing"


def test_rounds_take_the_batches_in_turn() -> None:
    script = Script(repeated(1.0, 0.5, 0.52, 1.0))
    found = pair_up(script, 3, 1, 4, 0.0)
    assert [batch for _, batch in script.asked[::4]] == [0, 1, 2, 0]
    assert found.batches == (0, 0, 1, 1, 2, 2, 0, 0)
    assert [which for which, _ in script.asked[:4]] == [False, True, True, False]


def test_calls_are_attributed_by_their_medians() -> None:
    a = Sample(1.0)
    found = pair_up(Script([a, Sample(0.5, (0.4, 0.1)), Sample(0.5, (0.3, 0.2)), a]), 1, 1, 1, 0.0)
    assert found.call_s == pytest.approx((0.35, 0.15))


# intervals


def test_one_batch_is_the_bootstrap_over_pairs() -> None:
    ratios = np.random.default_rng(3).normal(0.7, 0.05, 24)
    low, high = log_ratio_ci95(ratios)
    rng = np.random.default_rng(9)  # a second implementation, with other draws
    medians = np.median(rng.choice(ratios, size=(4000, len(ratios))), axis=1)
    assert (low, high) == pytest.approx(tuple(np.percentile(medians, (2.5, 97.5))), abs=5e-3)
    assert log_ratio_ci95(ratios) == (low, high), "the same draws every time"


def test_batches_that_differ_widen_the_interval() -> None:
    """Pairs of a batch agree, batches do not: a bootstrap over pairs takes 24 pairs for 24 facts."""
    groups = np.repeat(np.arange(6), 4)
    rng = np.random.default_rng(0)
    ratios = np.repeat(rng.normal(0.7, 0.1, 6), 4) + rng.normal(0, 1e-3, 24)
    pairs_low, pairs_high = log_ratio_ci95(ratios)
    low, high = log_ratio_ci95(ratios, groups)
    assert high - low > 1.3 * (pairs_high - pairs_low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        batches = rng.normal(0.5, 0.05, 8)
        ratios = np.repeat(batches, 2) + rng.normal(0, 0.02, 16)
        low, high = log_ratio_ci95(ratios, np.repeat(np.arange(8), 2))
        covered += low <= 0.5 <= high
    assert 175 <= covered <= 200  # 190 expected


def test_the_interval_is_at_least_as_wide_as_the_floor() -> None:
    found = Latency((0.69, 0.69, 0.69, 0.69), 1.0, 0.5, 1, floor=0.1)
    low, high = speedup_ci95(found)
    assert (low, high) == pytest.approx((np.exp(0.69) / 1.1, np.exp(0.69) * 1.1))


# what spoils a sample, and what is said


def test_throttled_pairs_are_marked_and_do_not_count() -> None:
    hot = "throttled: thermal slowdown"
    found = pair_up(Script([1.0, 0.5, Sample(1.0, (), hot), 1.0] + [1.0, 0.5, 0.5, 1.0] * 2), 1, 1, 3, 0.0)
    assert found.invalid == ("", hot, "", "", "", "")
    assert len(found.log_ratios) == 6, "nothing is dropped"
    assert found.speedup == pytest.approx(2.0)
    assert speedup_ci95(found) == pytest.approx((2.0, 2.0))
    assert found.notes == ("1 of 6 pairs throttled: thermal slowdown; they do not count",)


def test_where_every_pair_is_throttled_all_count() -> None:
    found = pair_up(
        Script(Sample(s, (), "throttled: power brake") for s in (1.0, 0.5, 0.5, 1.0)), 1, 1, 1, 0.0
    )
    assert found.speedup == pytest.approx(2.0)
    assert found.notes == ("2 of 2 pairs throttled: power brake; all count, for want of others",)


def test_a_busy_machine_is_told() -> None:
    found = pair_up(Script(repeated(1.0, 0.5, 0.7, 1.0)), 1, 1, 2, 0.0)
    assert found.notes[0].startswith("busy machine: the speedup's 95 % interval is 1.43 to 2.00")
    assert pair_up(Script(repeated(1.0, 0.5, 0.5, 1.0)), 1, 1, 2, 0.0).notes == ()


def test_other_processes_on_the_gpu_are_told() -> None:
    reading = GpuReading(1980, 2619, 300.0, 50, others=2)
    found = pair_up(Script(Sample(s, gpu=reading) for s in (1.0, 0.5, 0.5, 1.0)), 1, 1, 1, 0.0)
    assert found.notes == ("shared GPU: 2 other processes",)
    assert found.gpu["sm_mhz"] == 1980


def test_a_throttled_pair_sets_no_floor() -> None:
    ratios = (0.0, 0.01, 0.7, 0.0, 0.0, 0.0)
    assert with_floor(Latency(ratios, 1.0, 1.0, 1, 0.0)).floor > 0.4
    marked = Latency(ratios, 1.0, 1.0, 1, 0.0, invalid=("", "", "throttled", "", "", ""))
    assert with_floor(marked).floor == pytest.approx(math.exp(0.005) - 1)
    hot = Latency(ratios, 1.0, 1.0, 1, 0.0, invalid=("throttled",) * 6)
    assert with_floor(hot).floor > 0.4, "for want of others"


# warm-up and floor


@pytest.mark.parametrize(
    ("seconds", "loops"),
    [
        ([3.0, 1.0, 1.01, 1.0], 4),
        ([1.0, 1.0, 1.0], 3),
        ([1.0, 1.1] * 9, WARM_UP_LOOPS),
    ],
)
def test_warm_up_ends_when_three_loops_agree(seconds: list[float], loops: int) -> None:
    assert warm_up(iter(seconds).__next__) == loops


def test_the_floor_is_the_largest_deviation_of_a_round(runner: PipelineRunner) -> None:
    latency = a_a_floor(runner, CASES[:1], 2)
    rounds = [abs(a + b) / 2 for a, b in zip(latency.log_ratios[::2], latency.log_ratios[1::2], strict=True)]
    assert latency.floor == pytest.approx(np.exp(max(rounds)) - 1)
    known = with_floor(Latency((0.0, 0.02, -0.05, -0.01), 1.0, 1.0, 1, 0.0))
    assert known.floor == pytest.approx(np.exp(0.03) - 1)


class Machine:
    """A machine whose loops take a given time on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loop_s: float) -> None:
        self.now = 1000.0
        self.loops = 0
        self._loop_s = loop_s
        monkeypatch.setattr("autotune.scoring.latency.time_loop", self.time)

    def time(self, *_: object) -> Sample:
        self.now += self._loop_s
        self.loops += 1
        return Sample(1.0)


def test_a_worker_measures_its_floor_once_an_hour(
    runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, loop_s=1.0)
    floor = WorkerFloor(runner, lambda: machine.now)
    assert floor.value(CASES) == 0.0
    once = machine.loops
    assert once >= 3 + 4, "a warm-up, then a round of A A A A at least"
    machine.now += FLOOR_AGE_S - 1
    floor.value(CASES)
    assert machine.loops == once
    machine.now += 2
    floor.value(CASES)
    assert machine.loops == 2 * once
    floor.value(CASES)
    assert machine.loops == 2 * once


def test_a_floor_that_takes_minutes_is_kept_for_longer(
    runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, loop_s=300.0)
    floor = WorkerFloor(runner, lambda: machine.now)
    floor.value(CASES)
    once, took = machine.loops, machine.now - 1000.0
    machine.now += FLOOR_TIMES * took - 1
    floor.value(CASES)
    assert machine.loops == once
    machine.now += 2
    floor.value(CASES)
    assert machine.loops == 2 * once
