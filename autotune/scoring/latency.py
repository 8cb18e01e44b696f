"""Paired latency: candidate and uncached model in turn on the same worker, A B B A.

On a noisy machine the median of paired log-ratios varied by 0.9 % where sequential timing varied by 46 %
(docs/log.md); so latency is only ever stated as such a ratio.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from autotune.scoring.applied import Cache, cache_of
from autotune.scoring.case import Case
from autotune.scoring.environment_gpu import Gpu, GpuReading, open_gpu, spoiled, summarise
from autotune.scoring.measurement import Latency
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.scoring.statistics import RESAMPLES
from xslim.policy.policy import Policy

TOLERANCE = 0.05  # width of the middle half of the log-ratios; an idle machine stays well below it
PATIENCE = 3  # times as many rounds at most while pairs disagree
ENOUGH = 0.01  # half-width of the interval of the log-ratio below which rounds stop early
ENOUGH_PAIRS = 6  # before that an interval says little
BUSY = 0.2  # relative width of the interval of the speedup from which people are told
STABLE = 0.02  # warm-up ends when the last three loops agree so far
STABLE_LOOPS = 3
WARM_UP_LOOPS = 8  # at most
FLOOR_ROUNDS = 2
FLOOR_AGE_S = 3600.0  # a machine's mood changes
FLOOR_TIMES = 20  # of its own duration: a floor of long loops lasts longer, and costs 5 % at most


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed denoising loop.

    Attributes:
        seconds: of the loop.
        call_s: from each call of the transformer to the next.
        spoiled: why it is no valid sample, or empty.
        peak_bytes: allocated on the GPU at most; on a CPU held by the session at most, 0 without one.
        gpu: the GPU at its end, or None.
    """

    seconds: float
    call_s: tuple[float, ...] = ()
    spoiled: str = ""
    peak_bytes: int = 0
    gpu: GpuReading | None = None


# (whether it is the candidate, number of the batch) -> one timed loop
Timing = Callable[[bool, int], Sample]


def time_loop(
    runner: PipelineRunner,
    batch: Sequence[Case],
    candidate: Policy | Cache | None,
    sampling: Sampling = REFERENCE,
    gpu: Gpu | None = None,
) -> Sample:
    """Time one batch's denoising loop, uncached or under a policy or another cache."""
    cache = cache_of(candidate)
    cuda = runner.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(runner.device)
    before = None if gpu is None else gpu.read()
    with ExitStack() as stack:
        stack.enter_context(runner.sampled(sampling))
        applied = None if cache is None else stack.enter_context(cache.applied(runner, batch, timed=True))
        drawing = runner if applied is None else applied.runner
        with drawing.loop_timer() as timer:
            drawing.draw(batch)
            seconds = timer.take()
    after = None if gpu is None else gpu.read()
    held = 0 if applied is None else applied.held_bytes
    peak = torch.cuda.max_memory_allocated(runner.device) if cuda else held
    return Sample(seconds, timer.calls, spoiled(before, after), peak, after)


def paired(
    runner: PipelineRunner,
    cases: Sequence[Case],
    candidate: Policy | Cache | None,
    rounds: int,
    floor: float,
    sampling: Sampling = REFERENCE,
) -> Latency:
    """Time a policy or another cache against the uncached model in rounds of A B B A.

    Rounds take the batches of the cases in turn. Pairs that disagree tell of other work on the machine: then
    more rounds follow, up to `PATIENCE` times as many. Rounds stop early when the interval's half-width is
    below 1 %, or below the floor.

    Args:
        runner: the loaded pipeline, detached.
        cases: cut into batches of the runner's size; a smaller last one is left out.
        candidate: None times the uncached model against itself.
        rounds: at least so many, but for an early stop; each gives two pairs.
        floor: the worker's A/A floor, carried along.
        sampling: of the candidate.
    """
    batches = [batch for batch in runner.batches(cases) if len(batch) == min(len(cases), runner.spec.batch)]
    gpu = open_gpu(runner.device)

    def timing(cached: bool, batch: int) -> Sample:
        if cached:
            return time_loop(runner, batches[batch], candidate, sampling, gpu)
        return time_loop(runner, batches[batch], None, REFERENCE, gpu)

    return pair_up(timing, len(batches), len(batches[0]), rounds, floor)


def pair_up(timing: Timing, batches: int, batch: int, rounds: int, floor: float) -> Latency:
    """Run the rounds of `paired` with any way to time a loop.

    Args:
        timing: times one loop.
        batches: how many batches there are.
        batch: pictures in one.
        rounds: as in `paired`.
        floor: as in `paired`.
    """
    ratios: list[float] = []
    numbers: list[int] = []
    invalid: list[str] = []
    base: list[Sample] = []
    candidate: list[Sample] = []
    while _goes_on(ratios, numbers, rounds, floor):
        number = (len(ratios) // 2) % batches
        a, b, c, d = (timing(which, number) for which in (False, True, True, False))  # A B B A
        for bare, cached in ((a, b), (d, c)):
            ratios.append(math.log(bare.seconds / cached.seconds))
            numbers.append(number)
            invalid.append(bare.spoiled or cached.spoiled)
            base.append(bare)
            candidate.append(cached)
    calls = {len(sample.call_s) for sample in candidate}
    latency = Latency(
        log_ratios=tuple(ratios),
        baseline_s=float(np.median([sample.seconds for sample in base])),
        candidate_s=float(np.median([sample.seconds for sample in candidate])),
        batch=batch,
        floor=floor,
        batches=tuple(numbers) if batches > 1 else (),
        invalid=tuple(invalid) if any(invalid) else (),
        call_s=tuple(np.median([s.call_s for s in candidate], axis=0).tolist()) if len(calls) == 1 else (),
        peak_bytes=max(sample.peak_bytes for sample in candidate),
        baseline_peak_bytes=max(sample.peak_bytes for sample in base),
        gpu=summarise([sample.gpu for sample in (*base, *candidate) if sample.gpu is not None]),
    )
    return replace(latency, notes=_notes(latency))


def _goes_on(ratios: Sequence[float], numbers: Sequence[int], rounds: int, floor: float) -> bool:
    """Whether another round follows."""
    done = len(ratios) // 2
    if done < rounds:
        if len(ratios) < ENOUGH_PAIRS:
            return True
        low, high = log_ratio_ci95(ratios, numbers)
        return (high - low) / 2 > max(ENOUGH, math.log1p(floor))
    low, high = np.percentile(ratios, (25, 75))
    return bool(high - low > TOLERANCE) and done < rounds * PATIENCE


def log_ratio_ci95(ratios: Sequence[float], groups: Sequence[int] = ()) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median log-ratio.

    Batches of cases are drawn with replacement, and pairs within each: pairs on the same batch are more
    alike than those on others. With one batch this is the bootstrap over pairs.

    Args:
        ratios: one a pair.
        groups: number of the batch of each pair; empty for one batch.

    Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, sec. 3.8 (two stages).
    """
    values = np.asarray(ratios, dtype=np.float64)
    numbers = np.asarray(groups) if len(groups) else np.zeros(len(values), dtype=np.int64)
    order = np.argsort(numbers, kind="stable")
    _, starts, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(sizes), size=(RESAMPLES, len(sizes)))[..., None]  # batches
    inside = rng.random((RESAMPLES, len(sizes), int(sizes.max()))) * sizes[chosen]  # pairs of each
    drawn = values[order][starts[chosen] + inside.astype(np.int64)]
    low, high = np.percentile(np.median(drawn.reshape(RESAMPLES, -1), axis=1), (2.5, 97.5))
    return float(low), float(high)


def speedup_ci95(latency: Latency) -> tuple[float, float]:
    """Return the 95 % interval of the speedup, widened to at least the worker's A/A floor on both sides."""
    kept = [i for i, counts in enumerate(latency.valid) if counts]
    numbers = [latency.batches[i] for i in kept] if latency.batches else ()
    low, high = log_ratio_ci95([latency.log_ratios[i] for i in kept], numbers)
    middle, floor = math.log(latency.speedup), math.log1p(latency.floor)
    return math.exp(min(low, middle - floor)), math.exp(max(high, middle + floor))


def _notes(latency: Latency) -> tuple[str, ...]:
    """What has to be said of a measurement."""
    found = []
    low, high = speedup_ci95(latency)
    if (high - low) / latency.speedup > BUSY:
        found.append(
            f"busy machine: the speedup's 95 % interval is {low:.2f} to {high:.2f}; "
            "stop other work or raise the timing rounds"
        )
    spoiled_pairs = sum(bool(reason) for reason in latency.invalid)
    if spoiled_pairs:
        kept = (
            "all count, for want of others" if spoiled_pairs == len(latency.invalid) else "they do not count"
        )
        reason = next(reason for reason in latency.invalid if reason)
        found.append(f"{spoiled_pairs} of {len(latency.invalid)} pairs {reason}; {kept}")
    others = int(latency.gpu.get("other_processes", 0))
    if others:
        found.append(f"shared GPU: {others} other process{'' if others == 1 else 'es'}")
    return tuple(found)


def a_a_floor(runner: PipelineRunner, cases: Sequence[Case], rounds: int) -> Latency:
    """Time the uncached model against itself; its floor is the largest deviation of a round from 1."""
    return with_floor(paired(runner, cases, None, rounds, 0.0))


def with_floor(latency: Latency) -> Latency:
    """Take the floor from an A/A run: the largest deviation of a round's mean log-ratio from 0.

    Rounds with an invalid pair do not count, unless there are no others.
    """
    rounds = np.asarray(latency.log_ratios).reshape(-1, 2).mean(1)
    valid = np.asarray(latency.valid).reshape(-1, 2).all(1)
    counted = rounds[valid] if valid.any() else rounds
    return replace(latency, floor=float(np.exp(np.abs(counted).max()) - 1))


def warm_up(loop: Callable[[], float], limit: int = WARM_UP_LOOPS) -> int:
    """Run loops until the last three take the same time within 2 %, or the limit; return how many ran.

    Args:
        loop: runs one loop and returns its seconds.
        limit: loops at most; a busy machine never settles.
    """
    seconds: list[float] = []
    while len(seconds) < limit:
        seconds.append(loop())
        last = seconds[-STABLE_LOOPS:]
        if len(last) == STABLE_LOOPS and max(last) <= (1 + STABLE) * min(last):
            break
    return len(seconds)


class WorkerFloor:
    """The A/A floor of one worker: measured before its first timing, and anew when it is an hour old.

    Where measuring takes minutes, as for clips, it is kept for twenty times as long.
    """

    def __init__(self, runner: PipelineRunner, now: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._now = now
        self._taken_at = -math.inf
        self._age_s = FLOOR_AGE_S
        self._latest: Latency | None = None

    def measure(self, cases: Sequence[Case], rounds: int = FLOOR_ROUNDS) -> Latency:
        """Warm up, and time the uncached model against itself."""
        batch, started = next(self._runner.batches(cases)), self._now()
        warm_up(lambda: time_loop(self._runner, batch, None).seconds)
        self._latest, self._taken_at = a_a_floor(self._runner, cases, rounds), self._now()
        self._age_s = max(FLOOR_AGE_S, FLOOR_TIMES * (self._taken_at - started))
        return self._latest

    def value(self, cases: Sequence[Case]) -> float:
        """Return the floor, measured on these cases where there is none or it is too old."""
        if self._latest is None or self._now() - self._taken_at > self._age_s:
            self.measure(cases)
        return 0.0 if self._latest is None else self._latest.floor
