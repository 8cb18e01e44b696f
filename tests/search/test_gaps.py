"""Costs of gaps, and the dynamic program over them, against all subsets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from autotune.search.error_model import Weighting
from autotune.search.gaps import evenly, gap_costs, plans, step_errors
from autotune.search.replay import Replay
from tests.search.residuals import HOLD, NEWTON, NEWTON2, gap_sums, random_profile, residual_errors
from xslim.policy.policy import Predictor

STEPS = 8
EACH = pytest.mark.parametrize("predictor", [HOLD, NEWTON], ids=["hold", "newton"])


@pytest.mark.parametrize("predictor", [HOLD, NEWTON, NEWTON2], ids=["hold", "newton", "newton2"])
def test_a_step_errs_as_its_two_computed_steps_say(predictor: Predictor) -> None:
    profile, vectors = random_profile(1, STEPS)
    errors = step_errors(Replay(profile), predictor)
    for i, j in combinations(range(STEPS), 2):
        nodes = (j,) if predictor is HOLD else (i, j)
        expected = (residual_errors(vectors, predictor, nodes) ** 2).sum(2).mean(0)
        assert errors[i, j, j + 1 :] == pytest.approx(expected[j + 1 :])
        alone = (residual_errors(vectors, predictor, (j,)) ** 2).sum(2).mean(0)
        assert errors[j, j, j + 1 :] == pytest.approx(alone[j + 1 :])
        assert np.isinf(errors[i, j, : j + 1]).all()
        assert np.isinf(errors[j, i]).all(), "computed last is not before the other"


@EACH
def test_a_gap_costs_the_weighted_errors_in_it(predictor: Predictor) -> None:
    profile, vectors = random_profile(2, STEPS)
    costs = gap_costs(step_errors(Replay(profile), predictor), profile.sensitivity)
    for computed in ((0,), (0, 1), (0, 3, 5), tuple(range(STEPS))):
        found = [
            costs[computed[max(k - 1, 0)], j, ([*computed, STEPS])[k + 1]] for k, j in enumerate(computed)
        ]
        assert found == pytest.approx(gap_sums(profile, vectors, predictor, computed), abs=1e-9)


@EACH
@pytest.mark.parametrize("rule", ["sum", "max"])
@pytest.mark.parametrize("seed", range(3))
def test_no_subset_is_better(predictor: Predictor, rule: str, seed: int) -> None:
    profile, vectors = random_profile(seed, STEPS)
    found = plans(gap_costs(step_errors(Replay(profile), predictor), profile.sensitivity), rule)
    total = sum if rule == "sum" else max
    assert len(found) == STEPS + 1
    for count in range(1, STEPS + 1):
        subsets = [(0, *rest) for rest in combinations(range(1, STEPS), count - 1)]
        best = min(total(gap_sums(profile, vectors, predictor, subset)) for subset in subsets)
        assert found[count].cost == pytest.approx(best, abs=1e-9)
        assert len(found[count].steps) == count
        own = total(gap_sums(profile, vectors, predictor, found[count].steps))
        assert own == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("rule", ["sum", "max"])
def test_what_cannot_be_has_no_steps(rule: str) -> None:
    profile, _ = random_profile(3, 10)
    found = plans(gap_costs(step_errors(Replay(profile), HOLD, max_gap=3), profile.sensitivity), rule)
    assert [bool(plan.steps) for plan in found[:5]] == [False, False, False, True, True]
    assert [np.isfinite(plan.cost) for plan in found[:5]] == [False, False, False, True, True]
    assert max(np.diff([*found[3].steps, 10])) <= 4


def test_the_two_rules_differ() -> None:
    differ = 0
    for seed in range(5):
        profile, vectors = random_profile(seed, STEPS)
        costs = gap_costs(step_errors(Replay(profile), HOLD), profile.sensitivity)
        least, even = plans(costs, "sum")[3], plans(costs, "max")[3]
        differ += least.steps != even.steps
        assert sum(gap_sums(profile, vectors, HOLD, even.steps)) >= least.cost - 1e-9
        assert max(gap_sums(profile, vectors, HOLD, least.steps)) >= even.cost - 1e-9
    assert differ


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_equal_weights_give_every_kth_step(every: int) -> None:
    assert evenly(np.ones(30), 30 // every) == tuple(range(0, 30, every))


@pytest.mark.parametrize("tilt", [-6.0, 0.0, 2.0, 6.0])
@pytest.mark.parametrize("count", [-1, 1, 2, 7, 19, 20, 99])
def test_steps_are_parted_evenly(tilt: float, count: int) -> None:
    weights = Weighting(tilt=tilt).sensitivity(np.ones(20))
    found = evenly(weights, count)
    assert len(set(found)) == min(max(count, 1), 20)
    assert found[0] == 0
    assert list(found) == sorted(found)
    assert found[-1] < 20
    assert (tilt <= 0) or np.mean(found) >= np.mean(evenly(np.ones(20), count)), "late steps weigh more"


def test_even_gaps_are_no_longer_than_allowed() -> None:
    assert evenly(np.ones(20), 2, max_gap=4) == (0, 5, 10, 15)
    assert evenly(np.ones(20), 2, max_gap=9) == (0, 10)
    assert evenly(np.ones(4), 1, max_gap=0) == (0, 1, 2, 3)
