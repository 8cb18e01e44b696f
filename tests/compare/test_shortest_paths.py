"""DPCache and LeMiCa: no schedule of as many computed steps is better, by trying all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from autotune.compare.makers import Bench
from tests.compare.support import made
from tests.search.residuals import gap_sums, random_profile
from xslim.policy.policy import Predictor

STEPS, SHARE = 9, 0.45
FIRST = 3  # steps that DPCache computes


def chosen(method: str, bench: Bench) -> tuple[int, ...]:
    letters = made(method, SHARE, on=bench).policy.controller.steps
    return tuple(i for i, letter in enumerate(letters) if letter == "F")


def every(count: int, first: int) -> list[tuple[int, ...]]:
    start = tuple(range(first))
    return [(*start, *rest) for rest in combinations(range(first, STEPS), count - first)]


@pytest.mark.parametrize("seed", range(4))
def test_lemica_makes_the_worst_gap_least_and_of_those_the_sum(seed: int) -> None:
    profile, vectors = random_profile(seed, STEPS)
    found = chosen("lemica", Bench(profile, ("double",)))
    assert len(found) == round(SHARE * STEPS)
    gaps = {c: gap_sums(profile, vectors, Predictor(), c) for c in every(len(found), 1)}
    worst = min(max(g) for g in gaps.values())
    assert max(gaps[found]) == pytest.approx(worst)
    ties = [sum(g) for g in gaps.values() if max(g) <= worst * (1 + 1e-9)]
    assert sum(gaps[found]) == pytest.approx(min(ties))


@pytest.mark.parametrize("seed", range(4))
def test_dpcache_makes_the_sum_least_with_its_first_steps_computed(seed: int) -> None:
    profile, vectors = random_profile(seed, STEPS)
    flat = profile.with_sensitivity(np.ones(STEPS))  # its errors are those of the features
    found = chosen("dpcache", Bench(profile, ("double",)))
    assert found[:FIRST] == (0, 1, 2)
    newton = Predictor(kind="newton", order=1)  # of order 1 they agree
    sums = {c: sum(gap_sums(flat, vectors, newton, c)) for c in every(len(found), FIRST)}
    assert sums[found] == pytest.approx(min(sums.values()))
