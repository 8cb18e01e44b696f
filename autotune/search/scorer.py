"""Scorer: a measurement's scalars, as objectives, bounds and tables name them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.scoring.measurement import Measurement
from autotune.scoring.scores import set_values
from autotune.search.objective import LOWER_TAIL, METRIC_NAMES, UPPER_TAIL


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
