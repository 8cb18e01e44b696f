"""Racing: who is beaten on the first cases, and how often by chance alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from autotune.search.race import CONFIDENCE, LEAST_CASES, beaten
from autotune.search.trial_row import TrialRow

CASES = 8


def member(errors: list[float], compute: float = 0.3, trial: int = 0, metric: str = "lpips") -> TrialRow:
    return TrialRow(trial, "f", {}, {}, {"compute_fraction": compute}, "F", "hash", errors={metric: errors})


def drawn(seed: int, shift: float = 0.0, cases: int = CASES, noise: float = 0.2) -> tuple[list, list]:
    """Errors of two candidates on the same cases, which differ among themselves much more than the two."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 1, cases)
    one, other = (shared + rng.normal(0, noise, cases) for _ in range(2))
    return list(one + shift), list(other)


def test_a_clearly_worse_candidate_is_beaten_by_the_first_that_is_better() -> None:
    for seed in range(20):
        worse, better = drawn(seed, shift=1.0)
        useless = member([9.0] * CASES, trial=1)
        best, also = member(better, trial=2), member(better, trial=3)
        assert beaten(0.3, worse, "lpips", [useless, best, also]) is best
        assert beaten(0.3, better, "lpips", [member(worse)]) is None


def test_cases_are_compared_in_pairs() -> None:
    """The cases differ among themselves by more than the two candidates do."""
    worse, better = drawn(0, shift=0.2, noise=0.01)
    assert abs(np.mean(worse) - np.mean(better)) < np.std(better) / 2
    assert beaten(0.3, worse, "lpips", [member(better)])
    assert beaten(0.3, worse[::-1], "lpips", [member(better)]) is None


def test_a_member_that_computes_more_beats_nobody() -> None:
    worse, better = drawn(1, shift=1.0)
    assert beaten(0.299, worse, "lpips", [member(better, compute=0.3)]) is None
    assert beaten(0.3, worse, "lpips", [member(better, compute=0.3)])
    assert beaten(0.5, worse, "lpips", [member(better, compute=0.3)])


def test_few_cases_decide_nothing() -> None:
    worse, better = drawn(2, shift=5.0, noise=0.01)
    for count in range(LEAST_CASES):
        assert beaten(0.3, worse[:count], "lpips", [member(better)]) is None
        assert beaten(0.3, worse, "lpips", [member(better[:count])]) is None
    assert beaten(0.3, worse[:LEAST_CASES], "lpips", [member(better)])


def test_the_first_common_cases_count() -> None:
    worse, better = drawn(3, shift=1.0)
    assert beaten(0.3, worse[:4], "lpips", [member([*better[:4], *[99.0] * 4])])
    assert beaten(0.3, worse[:4], "lpips", [member([*worse[:4], *[-99.0] * 4])]) is None


def test_other_metrics_and_nobody_beat_nobody() -> None:
    worse, better = drawn(4, shift=1.0)
    assert beaten(0.3, worse, "psnr", [member(better, metric="lpips")]) is None
    assert beaten(0.3, worse, "lpips", []) is None


def test_equal_errors_and_undefined_ones_are_not_worse() -> None:
    errors, _ = drawn(5)
    assert beaten(0.3, errors, "lpips", [member(errors)]) is None
    assert beaten(0.3, [*errors[:-1], float("nan")], "lpips", [member([-9.0] * CASES)]) is None


@pytest.mark.parametrize("cases", [4, 8, 16])
def test_equal_candidates_are_rarely_dropped(cases: int) -> None:
    runs = 1000
    dropped = sum(
        beaten(0.3, one, "lpips", [member(other)]) is not None
        for one, other in (drawn(seed, cases=cases) for seed in range(runs))
    )
    assert 0 < dropped < 0.02 * runs


def test_it_is_the_paired_t_test() -> None:
    decided = []
    for seed in range(100):
        worse, better = drawn(seed, shift=0.2)
        p = ttest_rel(worse, better, alternative="greater").pvalue
        decided.append(p < 1 - CONFIDENCE)
        assert (beaten(0.3, worse, "lpips", [member(better)]) is not None) == decided[-1]
    assert 5 < sum(decided) < 95
