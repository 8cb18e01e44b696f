"""Schedules and thresholds of a profile: exact where they are said to be, never worse than their start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.profile import Profile
from autotune.search.asked import Rule, Schedule
from autotune.search.error_model import Weighting
from autotune.search.moves import MOVES, Mover
from autotune.search.replay import Replay
from autotune.search.schedules import WINDOW, Scheduler
from tests.search.residuals import (
    HOLD,
    NEWTON,
    NEWTON2,
    gap_sums,
    of_steps,
    pattern,
    random_profile,
    residual_errors,
)
from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy, Predictor
from xslim.runtime.feature_cache import ResidualHistory
from xslim.runtime.predictors import predict
from xslim.runtime.rows import Rows

STEPS = 9
WEIGHTED = Weighting(tilt=1.0, bend=-0.5, coherence=0.9)


@pytest.fixture(scope="module")
def scheduler() -> Scheduler:
    """Of a smooth residual that changes most at both ends."""
    return Scheduler(FormulaEvaluator(30).profile(()))


@pytest.mark.parametrize("rule", ["sum", "max"])
@pytest.mark.parametrize("predictor", [HOLD, NEWTON], ids=["hold", "newton"])
@pytest.mark.parametrize("seed", range(3))
def test_no_subset_is_better(predictor: Predictor, seed: int, rule: Rule) -> None:
    profile, vectors = random_profile(seed, STEPS)
    scheduler, total = Scheduler(profile), sum if rule == "sum" else max
    for count in range(1, STEPS + 1):
        subsets = [(0, *rest) for rest in combinations(range(1, STEPS), count - 1)]
        best = min(total(gap_sums(profile, vectors, predictor, subset)) for subset in subsets)
        chosen = scheduler.computed_steps(predictor, count, rule=rule)
        plan = scheduler.planned(predictor, rule=rule)[count]
        assert chosen == plan.steps
        assert len(chosen) == count
        assert total(gap_sums(profile, vectors, predictor, chosen)) == pytest.approx(best, abs=1e-9)
        assert plan.cost == pytest.approx(best, abs=1e-9)


def test_the_weighting_is_that_of_the_exact_schedule_too() -> None:
    profile, _ = random_profile(4, STEPS)
    plain = replace(WEIGHTED, coherence=0.0)
    corrected = replace(profile, sensitivity=plain.sensitivity(profile.sensitivity))
    for count in (2, 4, 6):
        assert Scheduler(profile).planned(HOLD, plain)[count] == Scheduler(corrected).planned(HOLD)[count]
        assert Scheduler(profile).planned(HOLD, WEIGHTED) == Scheduler(profile).planned(HOLD, plain)


@pytest.mark.parametrize("kind", ["pade", "gamma"])
def test_predictors_that_read_the_residuals_or_a_table_are_costed_as_they_are(kind: str) -> None:
    """Against the runtime's own predictions, of one row: the planner knows inner products only."""
    profile, vectors = random_profile(5, STEPS, rows=1)
    table = {"x": [0.0, 0.5, 1.0], "y": [1.0, 2.0, 0.5]}
    policy = Policy.parse(
        {"controller": {"kind": "interval", "every": 2}, "predictor": {"kind": kind, "gamma": table}}
    )
    plan = Scheduler(profile).planned(policy.predictor)[4]
    history, total = ResidualHistory(policy.history), 0.0
    for step in range(STEPS):
        true = torch.from_numpy(vectors[:, step, None])  # [1, 1 token, dim]
        if step in plan.steps:
            history.push(true, float(step), Rows.of([True], true.device))
        else:
            guess = predict(policy, history, StepInfo(step, STEPS))
            total += float((guess - true).square().sum()) * profile.sensitivity[step] ** 2
    assert plan.cost == pytest.approx(total, rel=1e-5)


def test_more_steps_never_cost_more_when_held() -> None:
    costs = [plan.cost for plan in Scheduler(random_profile(7, STEPS)[0]).planned(HOLD)[1:]]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0.0


def test_no_gap_is_longer_than_allowed() -> None:
    profile, _ = random_profile(3, 20)
    scheduler = Scheduler(profile, max_gap=4)
    for weighting in (Weighting(coherence=0.0), WEIGHTED):
        steps = scheduler.computed_steps(HOLD, 1, weighting)
        assert max(np.diff([*steps, 20])) - 1 <= 4
        assert len(steps) == 4, "the fewest that the gap allows"
        assert scheduler.computed_steps(HOLD, 99, weighting) == tuple(range(20))
    assert scheduler.planned(HOLD)[1].cost == float("inf")
    assert scheduler.planned(HOLD)[1].steps == ()


def test_a_line_is_free_at_order_one() -> None:
    position = np.arange(STEPS, dtype=float)[:, None] * np.ones(3) + 1
    profile, _ = random_profile(0, STEPS, rows=1)
    scheduler = Scheduler(replace(profile, gram=(position @ position.T)[None]))
    assert scheduler.planned(NEWTON)[2].cost == pytest.approx(0, abs=1e-9)
    assert scheduler.computed_steps(NEWTON, 2) == (0, 1)
    assert scheduler.planned(HOLD)[2].cost > 1


# with coherence: the error model's own optimum, from an exact start


def estimate(
    profile: Profile,
    vectors: np.ndarray,
    predictor: Predictor,
    steps: tuple[int, ...],
    weighting: Weighting,
) -> float:
    """log q from the vectors, term by term."""
    errors = residual_errors(vectors, predictor, steps)
    s, q = weighting.sensitivity(profile.sensitivity), 0.0
    for t in range(profile.num_steps):
        for u in range(profile.num_steps):
            shared = (errors[:, t] * errors[:, u]).sum(1).mean()
            q += s[t] * s[u] * weighting.coherence ** abs(t - u) * shared
    return float(np.log(q))


def neighbours(steps: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for place in range(1, len(steps)):
        for move in MOVES:
            step = steps[place] + move
            if 0 < step < STEPS and step not in steps:
                yield tuple(sorted({*steps, step} - {steps[place]}))


@pytest.mark.parametrize("predictor", [HOLD, NEWTON, NEWTON2], ids=["hold", "newton", "newton2"])
def test_no_single_move_is_better(predictor: Predictor) -> None:
    moved = 0
    for seed in range(3):
        profile, vectors = random_profile(seed, STEPS)
        scheduler = Scheduler(profile)

        def log_q(steps: tuple[int, ...], profile: Profile = profile, vectors: np.ndarray = vectors) -> float:
            return estimate(profile, vectors, predictor, steps, WEIGHTED)

        for count in (2, 3, 5):
            start = scheduler.planned(predictor, WEIGHTED)[count].steps
            found = scheduler.computed_steps(predictor, count, WEIGHTED)
            least = log_q(found)
            assert scheduler.log_error(of_steps(found, STEPS, predictor), WEIGHTED) == pytest.approx(least)
            assert (found[0], len(found)) == (0, count)
            assert least <= log_q(start) + 1e-9
            assert least <= min(map(log_q, neighbours(found))) + 1e-8
            moved += found != start
    assert moved, "the exact sum of gaps is not the error model's best"


@pytest.mark.parametrize("predictor", [HOLD, NEWTON, NEWTON2], ids=["hold", "newton", "newton2"])
@pytest.mark.parametrize("count", [1, 2, 4, STEPS])
def test_the_estimate_of_moves_is_that_of_the_schedule(predictor: Predictor, count: int) -> None:
    profile, vectors = random_profile(4, STEPS)
    mover = Mover(Replay(profile), predictor, max_gap=STEPS)
    start = tuple(range(count))
    steps, q = mover.improved(start, WEIGHTED.matrix(profile.sensitivity))
    assert len(steps) == count
    if count == STEPS:
        assert (steps, q) == (start, 0.0)
    else:
        assert np.log(q) == pytest.approx(estimate(profile, vectors, predictor, steps, WEIGHTED))


def test_two_computed_steps_are_the_best_two() -> None:
    """One step to move, of few: no move away from it but all of them are in reach in turn."""
    best_found = 0
    for seed in range(6):
        profile, vectors = random_profile(seed, 5)
        found = Scheduler(profile).computed_steps(HOLD, 2, WEIGHTED)
        each = {step: estimate(profile, vectors, HOLD, (0, step), WEIGHTED) for step in range(1, 5)}
        best_found += each[found[1]] == min(each.values())
    assert best_found == 6


@pytest.mark.parametrize("rule", ["sum", "max"])
def test_a_smooth_schedule_is_never_worse_than_its_exact_start(scheduler: Scheduler, rule: Rule) -> None:
    for count in (2, 4, 7, 12, 20):
        for weighting in (Weighting(), WEIGHTED):
            start = scheduler.planned(HOLD, weighting, rule)[count].steps
            found = scheduler.computed_steps(HOLD, count, weighting, rule)
            errors = [scheduler.log_error(of_steps(s, 30, HOLD), weighting) for s in (found, start)]
            assert errors[0] <= errors[1]


# patterns


def test_even_steps_ask_nothing_of_the_profile(scheduler: Scheduler) -> None:
    policy = pattern("F", predictor=NEWTON.to_data())
    asked = Schedule(full_steps=15, rule="even", coherence=0.9)
    assert scheduler.pattern(policy, asked) == "F." * 15
    late = scheduler.pattern(policy, asked.model_copy(update={"tilt": 2.0}))
    assert late.count("F") == 15
    assert late[:15].count("F") < 7
    assert scheduler.pattern(policy, asked.model_copy(update={"refreshes": 1})).count("B") == 1


@pytest.mark.parametrize("polish", ["T", "B", "BT", "TB"])
@pytest.mark.parametrize("refreshes", [0, 1, 2, 12])
def test_a_pattern_keeps_its_budget(scheduler: Scheduler, polish: str, refreshes: int) -> None:
    policy = pattern("F", predictor=NEWTON.to_data(), token={"budget": 0.5})
    for count in (3, 10):
        asked = Schedule(full_steps=count, refreshes=refreshes, polish=polish)
        letters = scheduler.pattern(policy, asked)
        assert len(letters) == 30
        computed = scheduler.computed_steps(NEWTON, count, asked.weighting)
        assert [i for i, a in enumerate(letters) if a == "F"] == list(computed)
        drawn = [letter for letter in letters if letter in "BT"]
        assert len(drawn) <= refreshes
        if refreshes < 3:
            assert sorted(drawn) == sorted((polish * 2)[:refreshes])
        else:
            assert set(drawn) == set(polish)


@pytest.mark.parametrize("polish", ["T", "BT", "TB", "TTB"])
def test_a_pattern_is_executed_as_it_is_written(scheduler: Scheduler, polish: str) -> None:
    """A token refresh ranks its tokens by two residuals; before there are two, it would compute in full."""
    policy = pattern("F")
    for count in (1, 2, 4):
        for refreshes in (2, 5):
            asked = Schedule(full_steps=count, refreshes=refreshes, polish=polish, tilt=-2.0)
            letters = scheduler.pattern(policy, asked)
            replayed = scheduler.replay.run(pattern(letters))
            assert replayed.actions == (letters,)


def test_a_refresh_is_where_it_helps_most(scheduler: Scheduler) -> None:
    policy = pattern("F", block={"budget": 0.8, "start_block": -1})
    asked = Schedule(full_steps=4, refreshes=1, polish="B")
    plain = scheduler.pattern(policy, Schedule(full_steps=4))
    found = scheduler.pattern(policy, asked)
    (place,) = [i for i, (a, b) in enumerate(zip(plain, found, strict=True)) if a != b]
    assert (plain[place], found[place]) == (".", "B")

    def error(letters: str) -> float:
        changed = pattern(letters, block={"budget": 0.8, "start_block": -1})
        return scheduler.log_error(changed, asked.weighting)

    assert error(found) < error(plain)
    runs = [m for m in plain.replace("F", " ").split(" ") if m]
    starts = [i for i, a in enumerate(plain) if a == "." and plain[i - 1] == "F"]
    middles = [start + len(run) // 2 for start, run in zip(starts, runs, strict=True)]
    assert place in middles
    others = [plain[:m] + "B" + plain[m + 1 :] for m in middles]
    assert error(found) == min(map(error, others))


# thresholds


def online(max_skips: int | None, critical: float = 0.1) -> Policy:
    profile = FormulaEvaluator(30).profile(())
    return Policy.parse(
        {
            "controller": {
                "kind": "dual-threshold",
                "critical": critical,
                "polish": [],
                "warmup": 1,
                "cooldown": 0,
                "max_consecutive_skips": max_skips,
            },
            "indicator": {
                "signals": {"step_table": 1.0},
                "calibration": {"step_table": profile.calibration["step_table"].to_data()},
            },
        }
    )


@pytest.mark.parametrize("max_skips", [1, 3, None])
def test_a_threshold_is_a_quantile_of_what_windows_add_up_to(
    scheduler: Scheduler, max_skips: int | None
) -> None:
    policy, growth = online(max_skips), FormulaEvaluator(30).curve()[1:]
    longest = (WINDOW if max_skips is None else max_skips) + 1
    windows = [
        float(growth[i : i + length].sum())
        for length in range(1, longest + 1)
        for i in range(len(growth) - length + 1)
    ]
    for quantile in (0.1, 0.5, 0.9, 1.0):
        expected = np.quantile(windows, quantile)
        assert scheduler.threshold(policy, quantile) == pytest.approx(expected, rel=1e-3)


def test_a_threshold_grows_with_the_quantile_and_with_the_skips_allowed(scheduler: Scheduler) -> None:
    quantiles = np.linspace(0, 1, 11)
    short, long = (
        [scheduler.threshold(online(skips), float(quantile)) for quantile in quantiles] for skips in (2, 6)
    )
    for found in (short, long):
        assert found[0] == 0.0
        assert (np.diff(found) > 0).all()
    assert (np.array(long[1:]) > np.array(short[1:])).all()


def test_a_quantile_of_0_computes_every_step_and_of_1_few(scheduler: Scheduler) -> None:
    def actions(quantile: float) -> str:
        critical = scheduler.threshold(online(3), quantile)
        return scheduler.replay.run(online(3, critical)).actions[0]

    assert actions(0.0) == "F" * 30
    assert actions(1.0).count("F") <= 10
    counts = [actions(quantile).count("F") for quantile in (0.0, 0.3, 0.6, 1.0)]
    assert counts == sorted(counts, reverse=True)


def test_no_signal_is_no_threshold(scheduler: Scheduler) -> None:
    policy = Policy.parse({"controller": {"kind": "dual-threshold", "critical": 0.1}})
    silent = Scheduler(replace(scheduler.profile, signals={}))
    assert silent.threshold(policy, 0.5) == 0.0
    assert scheduler.threshold(policy, 0.5) > 0.0


def test_a_threshold_of_an_estimate_that_does_not_accumulate_is_a_quantile_of_single_steps(
    scheduler: Scheduler,
) -> None:
    growth = FormulaEvaluator(30).curve()[1:]
    policy = online(3)
    latest = policy.indicator.model_copy(update={"accumulate": "latest"})
    found = scheduler.threshold(policy.model_copy(update={"indicator": latest}), 0.7)
    assert found == pytest.approx(np.quantile(growth, 0.7), rel=1e-3)


def test_a_window_is_no_longer_than_the_reuses_allowed(scheduler: Scheduler) -> None:
    policy = online(None)
    rule = policy.controller.model_copy(update={"max_consecutive_reuses": 3})
    limited = policy.model_copy(update={"controller": rule})
    assert scheduler.threshold(limited, 0.9) == scheduler.threshold(online(3), 0.9)
    assert scheduler.threshold(limited, 0.9) < scheduler.threshold(policy, 0.9)
