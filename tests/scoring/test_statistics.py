"""Bootstrap intervals, tails and the summary of per-picture rows."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.scoring.statistics import mean_ci95, tail, tail_ci95
from xslim.errors import ConfigError

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(VALUES, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_the_mean_and_lies_within_the_values(values, seed):
    mean, low, high = mean_ci95(values, seed=seed, resamples=50)
    assert low <= mean <= high
    assert mean == np.mean(values)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= low
    assert high <= max(values) + slack


@given(VALUES, st.sampled_from([0, 5, 50, 95, 100]))
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_the_tail(values, q):
    value, low, high = tail_ci95(values, q, resamples=50)
    assert low <= value <= high
    assert value == tail(values, q)


def test_deterministic_by_seed_and_touches_no_global_state():
    values = np.random.default_rng(0).normal(size=50)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    assert mean_ci95(values) == mean_ci95(values)
    assert tail_ci95(values, 95) == tail_ci95(values, 95)
    assert mean_ci95(values) != mean_ci95(values, seed=1)
    assert np.array_equal(before, np.random.get_state()[1])


def test_mean_interval_is_scipys():
    values = np.random.default_rng(2).exponential(size=80)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    _, low, high = mean_ci95(values, resamples=20_000)
    assert low == pytest.approx(theirs.low, rel=0.02)
    assert high == pytest.approx(theirs.high, rel=0.02)


def test_mean_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        _, low, high = mean_ci95(generator.normal(size=60), resamples=400)
        held += low <= 0 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_large_samples_are_resampled_in_blocks_with_the_same_result(monkeypatch):
    values = np.random.default_rng(4).normal(size=100)
    whole = mean_ci95(values), tail_ci95(values, 5)
    monkeypatch.setattr("autotune.scoring.statistics.CHUNK_VALUES", 700)
    assert (mean_ci95(values), tail_ci95(values, 5)) == whole


def test_one_value_has_no_width():
    assert mean_ci95([3.0]) == (3.0, 3.0, 3.0)
    assert tail_ci95([3.0], 95) == (3.0, 3.0, 3.0)


def test_tail_interpolates():
    assert tail(range(101), 95) == 95
    assert tail([0.0, 1.0], 5) == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [[], [[1.0]], 1.0, [np.nan], [1.0, np.inf]])
def test_bad_values_are_refused(bad):
    for function in (mean_ci95, lambda v: tail(v, 5), lambda v: tail_ci95(v, 5)):
        with pytest.raises(ConfigError, match="values"):
            function(bad)


def test_bad_settings_are_refused():
    for q in (-1, 101, np.nan):
        with pytest.raises(ConfigError, match="percentile"):
            tail([1.0], q)
        with pytest.raises(ConfigError, match="percentile"):
            tail_ci95([1.0], q)
    with pytest.raises(ConfigError, match="resamples"):
        mean_ci95([1.0], resamples=0)
