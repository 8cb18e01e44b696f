"""What a measurement is: per-image rows, features, compute and latency. Plain values, cheap to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.scoring.case import Case

FloatArray = NDArray[np.float64]
Pictures = NDArray[np.uint8]  # [cases, height, width, channels], or of clips [cases, frames, …]


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
        batches: which batch of cases each pair was timed on, from 0; empty when there was one only.
        invalid: for each pair why it does not count, such as `throttled: thermal slowdown`, or an empty
            text; empty when all count.
        notes: what a reader has to know of the numbers, such as `busy machine: …`.
        call_s: median seconds of each call of the candidate's transformer, to the start of the next.
        peak_bytes: most bytes allocated on the GPU in the candidate's loops; on a CPU, most bytes that its
            session held between two steps.
        baseline_peak_bytes: likewise of the uncached loops; 0 on a CPU.
        gpu: medians of clocks, power and temperature at the loops' ends, the share of loops under a power
            cap, and the most other processes on the GPU; empty on a CPU and without NVML.
    """

    log_ratios: tuple[float, ...]
    baseline_s: float
    candidate_s: float
    batch: int
    floor: float
    batches: tuple[int, ...] = ()
    invalid: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    call_s: tuple[float, ...] = ()
    peak_bytes: int = 0
    baseline_peak_bytes: int = 0
    gpu: dict[str, float] = field(default_factory=dict)

    @property
    def valid(self) -> tuple[bool, ...]:
        """Whether each pair counts; where none does, all do, and a note says so."""
        flags = tuple(not reason for reason in self.invalid)
        return flags if any(flags) else (True,) * len(self.log_ratios)

    @property
    def speedup(self) -> float:
        """Median ratio of the pairs that count, uncached over candidate."""
        ratios = [r for r, counts in zip(self.log_ratios, self.valid, strict=True) if counts]
        return float(np.exp(np.median(ratios)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything measured of one policy on some cases.

    Attributes:
        quality: of the pictures.
        latency: None where it was not timed.
        environment: device and versions.
        sampled: scheduler and steps as a signature tells them; None for the reference configuration's.
    """

    quality: Quality
    latency: Latency | None = None
    environment: dict[str, str] = field(default_factory=dict)
    sampled: Mapping[str, Any] | None = None
