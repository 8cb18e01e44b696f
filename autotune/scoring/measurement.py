"""What a measurement is: per-image rows, features, compute and latency. Plain values, cheap to send."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.scoring.case import Case

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Pictures of some cases against the uncached ones.

    Attributes:
        cases: what was drawn.
        rows: paired metric -> one value a case, such as psnr in dB.
        features: set metric -> [cases, d]; metrics that share a network share the array.
        compute_fraction: share of the uncached MACs that ran.
        actions: letters of the first sample, one a step.
        trace_sha256: hash of all samples' letters, the MACs of every step, predictor and corrector; equal
            hashes did the same work, whatever the pictures.
        held_bytes: most bytes of cached features held between two steps.
        wall_s: seconds that drawing took.
    """

    cases: tuple[Case, ...]
    rows: dict[str, FloatArray]
    features: dict[str, FloatArray]
    compute_fraction: float
    actions: str
    trace_sha256: str
    held_bytes: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Paired latency of a candidate against the uncached model, on one worker in one run.

    Attributes:
        log_ratios: log(uncached / candidate) of each pair, in the order they ran.
        baseline_s: median seconds of the uncached denoising loop of one batch.
        candidate_s: the candidate's.
        batch: pictures in a batch.
        floor: half-width of the worker's A/A ratio: differences below it are ties.
    """

    log_ratios: tuple[float, ...]
    baseline_s: float
    candidate_s: float
    batch: int
    floor: float

    @property
    def speedup(self) -> float:
        """Median ratio, uncached over candidate."""
        return float(np.exp(np.median(self.log_ratios)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything measured of one policy on some cases."""

    quality: Quality
    latency: Latency | None = None
    environment: dict[str, str] = field(default_factory=dict)
