"""Scorer: a measurement's scalars, as objectives, bounds and tables name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotune.scoring.measurement import Measurement
from autotune.scoring.scores import set_values
from autotune.search.objective import LOWER_TAIL, METRIC_NAMES, UPPER_TAIL

SET_RESAMPLES = 100  # a resample of a set metric costs milliseconds


@dataclass(frozen=True, slots=True)
class Scorer:
    """Turns measurements into scalars.

    Attributes:
        reference_features: features that set metrics compare with, [n, d].
    """

    reference_features: np.ndarray

    def scalars(self, measurement: Measurement) -> dict[str, float]:
        """Means, tails and set metrics of a measurement; `latency` only when it was timed."""
        quality = measurement.quality
        found = {name: float(values.mean()) for name, values in quality.rows.items()}
        for name, values in quality.rows.items():
            tail = LOWER_TAIL if METRIC_NAMES[name] else UPPER_TAIL
            found[f"{name}_p{tail}"] = float(np.percentile(values, tail))
        found |= set_values(quality.features, self.reference_features)
        found["compute_fraction"] = quality.compute_fraction
        found["memory"] = float(quality.held_bytes)
        if measurement.latency is not None:
            found["speedup"] = measurement.latency.speedup
            found["latency"] = 1.0 / measurement.latency.speedup
        return found

    def set_intervals(self, features: np.ndarray, scalars: Mapping[str, float]) -> dict[str, list[float]]:
        """95 % bootstrap intervals of the set metrics over the drawn pictures, widened to hold the value.

        Resampling repeats pictures, which biases FID upwards: read the width, not the middle.
        """
        rng = np.random.default_rng(0)
        drawn = [
            set_values(features[rng.integers(len(features), size=len(features))], self.reference_features)
            for _ in range(SET_RESAMPLES)
        ]
        found = {}
        for name in drawn[0]:
            low, high = np.percentile([values[name] for values in drawn], (2.5, 97.5))
            found[name] = [min(float(low), scalars[name]), max(float(high), scalars[name])]
        return found
