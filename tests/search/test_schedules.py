"""The dynamic program against all subsets, on random residuals."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.profile import Profile
from autotune.search.schedules import Scheduler
from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy, Predictor
from xslim.policy.preset import ModelSignature
from xslim.runtime.feature_cache import ResidualHistory
from xslim.runtime.predictors import predict
from xslim.runtime.rows import Rows

STEPS = 9
HOLD, NEWTON = Predictor(kind="hold"), Predictor(kind="newton", order=1)


def random_profile(seed: int, steps: int = STEPS, rows: int = 2) -> tuple[Profile, np.ndarray]:
    """A profile of random residuals, and the residuals, [rows, steps, dim]."""
    rng = np.random.default_rng(seed)
    vectors = np.cumsum(rng.normal(size=(rows, steps, 5)), axis=1)
    profile = Profile(
        signature=ModelSignature(family="formula", transformer="Formula", num_steps=steps),
        gram=vectors @ vectors.transpose(0, 2, 1),
        change=np.ones(steps - 1),
        sensitivity=rng.uniform(0.1, 2, size=steps),
        calibration={},
        fit={},
    )
    return profile, vectors


def error(profile: Profile, vectors: np.ndarray, predictor: Predictor, computed: tuple[int, ...]) -> float:
    """What a schedule costs, from the residuals themselves: the residual is held or drawn out as a line."""
    total = 0.0
    for step in range(vectors.shape[1]):
        before = [c for c in computed if c <= step]
        if before[-1] == step:
            continue
        guess = vectors[:, before[-1]]
        if predictor.kind == "newton" and len(before) > 1:
            j, i = before[-1], before[-2]
            guess = guess + (guess - vectors[:, i]) * (step - j) / (j - i)
        squared = ((guess - vectors[:, step]) ** 2).sum(1).mean()
        total += squared * profile.sensitivity[step] ** 2
    return total


@pytest.mark.parametrize("predictor", [HOLD, NEWTON], ids=["hold", "newton"])
@pytest.mark.parametrize("seed", range(4))
def test_no_subset_is_better(predictor: Predictor, seed: int) -> None:
    profile, vectors = random_profile(seed)
    scheduler = Scheduler(profile)
    for count in range(1, STEPS + 1):
        subsets = [(0, *rest) for rest in combinations(range(1, STEPS), count - 1)]
        best = min(error(profile, vectors, predictor, subset) for subset in subsets)
        chosen = scheduler.computed_steps(predictor, count)
        assert len(chosen) == count
        assert error(profile, vectors, predictor, chosen) == pytest.approx(best, abs=1e-9)
        assert scheduler.cost(predictor, count) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("kind", ["pade", "gamma"])
def test_predictors_that_read_the_residuals_or_a_table_are_costed_as_they_are(kind: str) -> None:
    """Against the runtime's own predictions, of one row: the planner knows inner products only."""
    profile, vectors = random_profile(5, rows=1)
    table = {"x": [0.0, 0.5, 1.0], "y": [1.0, 2.0, 0.5]}
    policy = Policy.parse(
        {"controller": {"kind": "interval", "every": 2}, "predictor": {"kind": kind, "gamma": table}}
    )
    computed = Scheduler(profile).computed_steps(policy.predictor, 4)
    history, total = ResidualHistory(policy.history), 0.0
    for step in range(STEPS):
        true = torch.from_numpy(vectors[:, step, None])  # [1, 1 token, dim]
        if step in computed:
            history.push(true, float(step), Rows.of([True], true.device))
        else:
            guess = predict(policy, history, StepInfo(step, STEPS))
            total += float((guess - true).square().sum()) * profile.sensitivity[step] ** 2
    assert Scheduler(profile).cost(policy.predictor, 4) == pytest.approx(total, rel=1e-5)


def test_more_steps_never_cost_more_when_held() -> None:
    scheduler = Scheduler(random_profile(7)[0])
    costs = [scheduler.cost(HOLD, count) for count in range(1, STEPS + 1)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0.0


def test_no_gap_is_longer_than_allowed() -> None:
    profile, _ = random_profile(3, steps=20)
    scheduler = Scheduler(profile, max_gap=4)
    steps = scheduler.computed_steps(HOLD, 1)
    gaps = np.diff([*steps, 20]) - 1
    assert gaps.max() <= 4
    assert len(steps) == 4, "the fewest that the gap allows"
    assert scheduler.cost(HOLD, 1) == float("inf")
    assert scheduler.computed_steps(HOLD, 99) == tuple(range(20))


def test_a_line_is_free_at_order_one() -> None:
    position = np.arange(STEPS, dtype=float)[:, None] * np.ones(3) + 1
    profile, _ = random_profile(0, rows=1)
    scheduler = Scheduler(replace(profile, gram=(position @ position.T)[None]))
    assert scheduler.cost(NEWTON, 2) == pytest.approx(0, abs=1e-9)
    assert scheduler.computed_steps(NEWTON, 2) == (0, 1)
    assert scheduler.cost(HOLD, 2) > 1


@pytest.mark.parametrize("polish", ["T", "B", "BT"])
@pytest.mark.parametrize("refreshes", [0, 1, 2, 50])
def test_a_pattern_keeps_its_budget(polish: str, refreshes: int) -> None:
    scheduler = Scheduler(FormulaEvaluator(30).profile(()))
    for count in (3, 6, 12):
        pattern = scheduler.pattern(NEWTON, count, refreshes, polish)
        assert len(pattern) == 30
        assert [i for i, a in enumerate(pattern) if a == "F"] == list(scheduler.computed_steps(NEWTON, count))
        drawn = "".join(letter for letter in pattern if letter in "BT")
        assert len(drawn) <= refreshes
        assert drawn == (polish * 50)[: len(drawn)]
        if refreshes:
            assert drawn, "a gap of three steps or more is there"
