"""Summaries of per-picture values: means, tails and bootstrap intervals. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from autotune.scoring.metrics import METRICS, Kind
from xslim.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
RESAMPLES = 2000  # percentile ends need at least 1000 (Efron & Tibshirani 1993, ch. 13 and 19)
CHUNK_VALUES = 2**21  # bounds a block of resamples to 32 MB


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


class SummaryEntry(TypedDict):
    """One summarised number; JSON can write it."""

    value: float
    ci95: NotRequired[list[float]]
    index: NotRequired[int]


def mean_ci95(values: npt.ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean and its 95 % percentile-bootstrap interval.

    The interval always holds the mean; of a single value it has no width. The same arguments give the same
    numbers, and no global random state is touched.

    Shapes: values [n], n >= 1.

    Raises:
        ConfigError: no value, another shape, a value that is not finite, or resamples < 1.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sec. 13.3.
    """
    return _bootstrap(_checked(values), lambda rows: rows.mean(-1), seed, resamples)


def tail(values: npt.ArrayLike, q: float) -> float:
    """Return the q-th percentile, q in [0, 100], interpolated linearly between values.

    Shapes: values [n], n >= 1.

    Raises:
        ConfigError: no value, another shape, a value that is not finite, or q outside [0, 100].
    """
    return float(np.percentile(_checked(values), _checked_q(q)))


def tail_ci95(values: npt.ArrayLike, q: float, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the q-th percentile and its 95 % percentile-bootstrap interval.

    A resample holds no value beyond the worst one seen, so with few values (below some 100 for q = 5 or 95)
    the interval is too narrow on the bad side.

    Shapes: values [n], n >= 1.

    Raises:
        ConfigError: as `tail`, or resamples < 1.
    """
    q = _checked_q(q)
    return _bootstrap(_checked(values), lambda rows: np.percentile(rows, q, axis=-1), seed, resamples)


def summarise(rows: Mapping[str, npt.ArrayLike], seed: int = 0) -> dict[str, SummaryEntry]:
    """Return the mean, the bad tail and the worst picture of each paired metric.

    For `lpips` the keys are `lpips` (mean), `lpips_p95` and `lpips_worst`; where higher is better the tail
    is `_p5`. Mean and tail carry `ci95`; the worst carries the `index` of its picture (the first of equals)
    and no interval, because the bootstrap of an extreme is not consistent.

    Shapes: each of rows [n], the same n.

    Raises:
        ConfigError: an unknown or a set metric, lengths that differ, or values that `mean_ci95` refuses.
    """
    summary: dict[str, SummaryEntry] = {}
    lengths = {name: np.asarray(values).size for name, values in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"got {lengths} values, need one a picture", key="rows")
    for name, given in rows.items():
        metric = METRICS[name]
        if metric.kind is not Kind.PAIRED:
            raise ConfigError("a set metric has no value per picture", key=name)
        try:
            values = _checked(given)
        except ConfigError as error:
            raise error.at(key=name) from None
        worst = int(values.argmin() if metric.higher_is_better else values.argmax())
        summary[name] = _entry(mean_ci95(values, seed))
        summary[f"{name}_p{metric.tail_q}"] = _entry(tail_ci95(values, metric.tail_q, seed))
        summary[f"{name}_worst"] = {"value": float(values[worst]), "index": worst}
    return summary


def _entry(interval: Interval) -> SummaryEntry:
    return {"value": interval.value, "ci95": [interval.low, interval.high]}


def _bootstrap(
    values: FloatArray, statistic: Callable[[FloatArray], FloatArray], seed: int, resamples: int
) -> Interval:
    if resamples < 1:
        raise ConfigError(f"got {resamples}, need at least 1", key="resamples")
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_VALUES // len(values))
    draws = np.concatenate(
        [
            statistic(values[generator.integers(len(values), size=(min(chunk, resamples - i), len(values)))])
            for i in range(0, resamples, chunk)
        ]
    )
    value = float(statistic(values))
    low, high = np.percentile(draws, [2.5, 97.5])
    # Rounding can leave the estimate a hair outside (equal values), and few resamples by more.
    return Interval(value, min(float(low), value), max(float(high), value))


def _checked(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ConfigError(f"got shape {list(array.shape)}, need [n] with n >= 1", key="values")
    if not np.isfinite(array).all():
        raise ConfigError("got a value that is not finite", key="values")
    return array


def _checked_q(q: float) -> float:
    if not 0 <= q <= 100:
        raise ConfigError(f"got {q}, need a percentile in [0, 100]", key="q")
    return q
