"""Bootstrap intervals, tails and the summary of per-picture rows."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.scoring.statistics import interval_warnings, mean_ci95, null_range, tail, tail_ci95
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


def test_two_sets_of_one_distribution_differ_by_the_bias_of_their_size():
    """The squared distance of two means of d = 8 normal variables is d (1/n + 1/m) on average."""
    rows = np.random.default_rng(5).normal(size=(3000, 8))

    def distance(a, b):
        return float(np.square(a.mean(0) - b.mean(0)).sum())

    found = {n: null_range(distance, rows, n) for n in (20, 200)}
    for n, floor in found.items():
        assert (floor.n, floor.against) == (n, 3000 - n)
        assert floor.low <= floor.value <= floor.high
        assert floor.value == pytest.approx(8 * (1 / n + 1 / (3000 - n)), rel=0.5)
    assert found[20].low > found[200].high
    assert null_range(distance, rows, 20) == found[20]
    assert null_range(distance, rows, 20, seed=1) != found[20]


def test_a_set_too_small_to_hold_two_of_the_size_is_halved():
    def sizes(a, b):
        return len(a) + 1000.0 * len(b)

    rows = np.zeros((11, 2))
    assert null_range(sizes, rows, 50) == (6005.0, 6005.0, 6005.0, 5, 6)
    assert null_range(sizes, rows, 1)[3:] == (2, 9), "every set metric needs 2 rows"
    assert null_range(sizes, rows[:3], 50) is None


def test_the_two_parts_share_no_row():
    rows = np.arange(20.0)[:, None]

    def shared(a, b):
        return float(len(set(a[:, 0]) & set(b[:, 0])) + (len(a) + len(b) != 20))

    assert null_range(shared, rows, 7)[:3] == (0, 0, 0)


@pytest.mark.parametrize(("n", "lines"), [(5, 2), (19, 2), (20, 1), (99, 1), (100, 0)])
def test_small_samples_are_told_of(n, lines):
    found = interval_warnings(n)
    assert len(found) == lines
    assert all(line.startswith(f"{n} cases: ") for line in found)
