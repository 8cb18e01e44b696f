"""The error model: its sum, and a fit that finds what made synthetic measurements."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.search.error_model import MIN_TRIALS, WAVES, Weighting, fit, log_error, rank_correlation
from tests.search.residuals import HOLD, NEWTON, random_profile, residual_errors

STEPS = 16
MEASURED = np.linspace(0.5, 1.5, STEPS)
FLAT = Weighting(coherence=0.0)


def trials(count: int, seed: int) -> np.ndarray:
    """Inner products of residual errors of random schedules, [trials, steps, steps]."""
    rng = np.random.default_rng(seed)
    _, vectors = random_profile(3, STEPS)
    found = []
    for _ in range(count):
        computed = (0, *sorted(rng.choice(np.arange(1, STEPS), size=rng.integers(2, 12), replace=False)))
        errors = residual_errors(vectors, HOLD if rng.random() < 0.5 else NEWTON, computed)
        found.append(np.einsum("rtd,rud->tu", errors, errors) / len(errors))
    return np.array(found)


def measured_logs(products: np.ndarray, true: Weighting, seed: int = 0, slope: float = 0.8) -> np.ndarray:
    """Logarithms of a metric that the model is right about, but for a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.03, len(products))
    return slope * log_error(products, true.matrix(MEASURED)) - 2.0 + noise


def test_without_coherence_squares_add_up_and_with_all_of_it_vectors() -> None:
    errors = np.random.default_rng(0).normal(size=(STEPS, 7))
    products, weighted = errors @ errors.T, errors * MEASURED[:, None]
    squares = log_error(products, Weighting(coherence=0.0).matrix(MEASURED))
    vectors = log_error(products, Weighting(coherence=1.0).matrix(MEASURED))
    assert np.exp(squares) == pytest.approx((weighted**2).sum())
    assert np.exp(vectors) == pytest.approx((weighted.sum(0) ** 2).sum())
    between = np.exp(log_error(products, Weighting(coherence=0.5).matrix(MEASURED)))
    by_hand = sum(
        0.5 ** abs(t - u) * float(weighted[t] @ weighted[u]) for t in range(STEPS) for u in range(STEPS)
    )
    assert between == pytest.approx(by_hand)


def test_many_trials_at_once_are_each_as_alone() -> None:
    products, matrix = trials(4, 0), Weighting().matrix(MEASURED)
    together = log_error(products, matrix)
    assert together.shape == (4,)
    assert together == pytest.approx([float(log_error(one, matrix)) for one in products])


def test_no_error_has_a_logarithm() -> None:
    assert np.isfinite(log_error(np.zeros((STEPS, STEPS)), Weighting().matrix(MEASURED)))


def test_tilt_weighs_the_end_and_bend_both_ends() -> None:
    ratio = Weighting(tilt=1.5).sensitivity(MEASURED) / MEASURED
    assert ratio[-1] / ratio[0] == pytest.approx(np.exp(1.5))
    assert (np.diff(ratio) > 0).all()
    bent = Weighting(bend=1.5).sensitivity(np.ones(STEPS + 1))
    assert bent[-1] == pytest.approx(bent[0])
    assert bent[0] / bent[STEPS // 2] == pytest.approx(np.exp(1.5))
    assert Weighting().sensitivity(MEASURED) == pytest.approx(MEASURED)


TRUTHS = [
    Weighting(tilt=2.0, bend=0.0, coherence=0.9),
    Weighting(tilt=-2.0, bend=0.0, coherence=0.9),
    Weighting(tilt=0.0, bend=1.5, coherence=0.9),
    Weighting(tilt=0.0, bend=-1.5, coherence=0.9),
    Weighting(tilt=1.0, bend=1.0, coherence=0.2),
]


@pytest.mark.parametrize("true", TRUTHS, ids=str)
def test_a_fit_finds_what_made_the_measurements(true: Weighting) -> None:
    """Ranks on trials that it has not seen; the weighting is pulled to its default, but the right way."""
    seen, unseen = trials(30, 1), trials(30, 2)
    found = fit(list(seen), list(measured_logs(seen, true)), MEASURED)
    assert found is not None
    truth = measured_logs(unseen, true, seed=1)
    matrix = found.weighting.matrix(MEASURED)
    predicted = np.array([found.log_metric(float(log_error(one, matrix))) for one in unseen])
    plain = log_error(unseen, Weighting().matrix(MEASURED))
    assert rank_correlation(predicted, truth) > 0.95
    assert rank_correlation(predicted, truth) > rank_correlation(plain, truth)
    assert found.rank_correlation > 0.9
    assert np.sqrt(np.mean((predicted - truth) ** 2)) < 0.25 * truth.std(), "in the metric's own units"
    assert found.spread < 0.25 * truth.std()
    fitted = found.weighting
    for given, value in ((true.tilt, fitted.tilt), (true.bend, fitted.bend)):
        assert given * value > 0.3 * given**2 or given == 0.0
        assert abs(value) <= max(1.5 * abs(given), 0.75)
    assert fitted.coherence < Weighting().coherence


WAVES_TRUE = Weighting(coherence=0.9, waves=(2.5, 0.0, -2.0))


def test_a_wave_is_a_legendre_polynomial() -> None:
    x = np.linspace(-1, 1, STEPS)
    ratio = np.log(Weighting(waves=(0.5, -1.0)).sensitivity(MEASURED) / MEASURED)
    third, fourth = (5 * x**3 - 3 * x) / 2, (35 * x**4 - 30 * x**2 + 3) / 8
    assert ratio == pytest.approx(0.5 * third - fourth)


def test_waves_are_fitted_where_they_foresee_better() -> None:
    seen, unseen = trials(80, 1), trials(30, 2)
    found = fit(list(seen), list(measured_logs(seen, WAVES_TRUE)), MEASURED)
    assert found is not None
    assert len(found.weighting.waves) == WAVES
    assert found.weighting.waves[0] > 0.3
    truth = measured_logs(unseen, WAVES_TRUE, seed=1)
    assert rank_correlation(log_error(unseen, found.weighting.matrix(MEASURED)), truth) > 0.98


def test_noise_has_no_waves() -> None:
    seen = trials(40, 1)
    logs = measured_logs(seen, FLAT) + np.random.default_rng(3).normal(0, 1.0, 40)
    found = fit(list(seen), list(logs), MEASURED)
    assert found is not None
    assert found.weighting.waves == ()


def test_noise_is_not_trusted() -> None:
    seen = trials(30, 1)
    noise = np.random.default_rng(0).normal(size=30)
    found = fit(list(seen), list(noise), MEASURED)
    assert found is not None
    assert found.rank_correlation < 0.5
    assert found.spread > 0.5


def test_few_trials_fit_nothing() -> None:
    seen = trials(MIN_TRIALS, 1)
    logs = list(measured_logs(seen, FLAT))
    assert fit(list(seen[:-1]), logs[:-1], MEASURED) is None
    found = fit(list(seen), logs, MEASURED)
    assert found is not None
    assert np.isfinite(found.rank_correlation)
    assert fit([], [], MEASURED) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_undefined_metrics_and_uncached_trials_are_left_out(value: float) -> None:
    seen = trials(12, 1)
    logs = list(measured_logs(seen, FLAT))
    expected = fit(list(seen), logs, MEASURED)
    spoilt = fit([*seen, seen[0]], [*logs, value], MEASURED)
    uncached = fit([*seen, np.zeros((STEPS, STEPS))], [*logs, -20.0], MEASURED)
    assert expected == spoilt == uncached
    assert fit(list(seen[:6]), [*logs[:5], value], MEASURED) is None


def test_a_rank_correlation_is_spearmans_or_undefined() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(x, x**3) == pytest.approx(1)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert np.isnan(rank_correlation(x, np.ones(4)))
