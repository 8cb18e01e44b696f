"""Scorer: a measurement's scalars, as objectives, bounds and tables name them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from autotune.scoring.measurement import FloatArray, Measurement
from autotune.scoring.metrics import METRICS, Kind, ReferenceSet, View
from autotune.scoring.scores import set_values, variance_warnings
from autotune.search.metrics import Metrics
from autotune.search.objective import METRIC_OF, tail_name
from xslim.errors import ConfigError

log = logging.getLogger(__name__)
SET_RESAMPLES = 100  # a resample of a set metric costs milliseconds
LARGE_DIMENSION = 512  # above it seconds: then only a tenth of the resamples


@dataclass(frozen=True, slots=True)
class Scorer:
    """Turns measurements into scalars.

    Attributes:
        references: set metric -> what it compares with; a metric without one is not formed.
    """

    references: Mapping[str, ReferenceSet | FloatArray]

    def scalars(self, measurement: Measurement) -> dict[str, float]:
        """Means, tails and set metrics of a measurement; `latency` only when it was timed."""
        quality = measurement.quality
        found = {name: float(values.mean()) for name, values in quality.rows.items()}
        for name, values in quality.rows.items():
            found[tail_name(name)] = float(np.percentile(values, METRICS[name].tail_q))
        for line in variance_warnings(quality.features):
            log.warning("%s", line)
        found |= set_values(quality.features, self.references)
        found["compute_fraction"] = quality.compute_fraction
        found["memory"] = float(quality.held_bytes)
        if measurement.latency is not None:
            # on a GPU the peak that PyTorch allocated, cached features among it
            found["memory"] = float(max(quality.held_bytes, measurement.latency.peak_bytes))
            found["speedup"] = measurement.latency.speedup
            found["latency"] = 1.0 / measurement.latency.speedup
        return found

    def set_intervals(
        self, features: Mapping[str, FloatArray], scalars: Mapping[str, float]
    ) -> dict[str, list[float]]:
        """95 % bootstrap intervals of the set metrics over the drawn pictures, widened to hold the value.

        Resampling repeats pictures, which biases FID upwards: read the width, not the middle. Of features
        with more than 512 numbers only ten resamples are drawn, so that the interval is their whole range.
        """
        rng = np.random.default_rng(0)
        n = len(next(iter(features.values()), ()))
        drawn = []
        large = any(rows.shape[1] > LARGE_DIMENSION for rows in features.values())
        for _ in range((SET_RESAMPLES // 10 if large else SET_RESAMPLES) if n else 0):
            chosen = rng.integers(n, size=n)
            drawn.append(set_values({name: rows[chosen] for name, rows in features.items()}, self.references))
        found = {}
        for name in drawn[0] if drawn else ():
            low, high = np.percentile([values[name] for values in drawn], (2.5, 97.5))
            found[name] = [min(float(low), scalars[name]), max(float(high), scalars[name])]
        return found


def reference_sets(metrics: Metrics, baseline: Measurement) -> dict[str, ReferenceSet]:
    """Return what set metrics compare with: given features, else those of the uncached held-out pictures.

    A file of a mean and a covariance alone serves `fid`; the others are not formed then.

    Raises:
        ConfigError: a file is missing or at fault, or its features are not of the metric's network.
    """
    loaded: dict[str, ReferenceSet] = {}
    own: dict[int, ReferenceSet] = {}  # metrics that share features share their set
    found = {}
    for name, rows in baseline.quality.features.items():
        key, path = metrics.reference_file(name)
        if path is None:
            found[name] = own.setdefault(id(rows), ReferenceSet(rows))
            continue
        if path not in loaded:
            loaded[path] = ReferenceSet.load(path, key)
        given, needed = loaded[path].dimensions, rows.shape[1]
        if given != needed:
            raise ConfigError(
                f"got {path!r} with {given} numbers a picture, the network of {name} gives {needed}; "
                "give features of the same network",
                key=key,
            )
        if name == "fid" or loaded[path].rows is not None:
            found[name] = loaded[path]
    return found


def check_measured(named: Iterable[tuple[str, str]], scalars: Mapping[str, float]) -> None:
    """Refuse objectives and bounds on what is not measured with this model and these metrics.

    Args:
        named: (key, scalar) of what the experiment names.
        scalars: of the uncached model, on which all that can be measured was measured.

    Raises:
        ConfigError: a scalar is not among them; says why and names the measured ones.
    """
    for key, scalar in named:
        if scalar in scalars:
            continue
        name = METRIC_OF[scalar]
        metric, reason = METRICS.get(name), ""
        if metric is not None and metric.min_side > 1:
            reason = f"{name} needs pictures with sides of at least {metric.min_side} pixels; "
        elif metric is not None and metric.view is View.CHANGES:
            reason = f"{name} needs clips; "
        elif metric is not None and metric.kind is Kind.SET:
            reason = f"{name} needs a reference of features, not of their statistics; "
        raise ConfigError(f"is not measured: {reason}measured are {', '.join(sorted(scalars))}", key=key)
