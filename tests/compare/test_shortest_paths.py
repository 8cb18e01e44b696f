"""LeMiCa: no schedule of as many computed steps is better, by trying all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from autotune.compare.makers import Bench
from tests.compare.support import made
from tests.search.residuals import gap_sums, random_profile

STEPS, SHARE = 8, 0.4


@pytest.mark.parametrize("seed", range(4))
def test_lemica_makes_the_worst_gap_least(seed: int) -> None:
    profile, vectors = random_profile(seed, STEPS)
    flat = profile.with_sensitivity(np.ones(STEPS))
    policy = made("lemica", SHARE, on=Bench(profile, ("double",))).policy
    letters = policy.controller.steps
    chosen = tuple(i for i, letter in enumerate(letters) if letter == "F")
    assert len(chosen) == round(SHARE * STEPS)
    every = [(0, *rest) for rest in combinations(range(1, STEPS), len(chosen) - 1)]
    worst = {c: max(gap_sums(flat, vectors, policy.predictor, c)) for c in every}
    assert worst[chosen] == pytest.approx(min(worst.values()))
