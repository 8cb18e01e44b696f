"""Paired latency: candidate and uncached model in turn on the same worker, A B B A.

On a noisy machine the median of paired log-ratios varied by 0.9 % where sequential timing varied by 46 %
(docs/log.md); so latency is only ever stated as such a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

import xslim
from autotune.scoring.case import Case
from autotune.scoring.measurement import Latency
from autotune.scoring.pipeline import PipelineRunner
from xslim.policy.policy import Policy

TOLERANCE = 0.05  # width of the middle half of the log-ratios; an idle machine stays well below it
PATIENCE = 3


def time_loop(
    runner: PipelineRunner, batch: Sequence[Case], policy: Policy | None, num_steps: int | None = None
) -> float:
    """Seconds of one batch's denoising loop, uncached or under a policy, of the spec's steps or others."""
    steps = num_steps or runner.spec.num_steps
    attached = nullcontext() if policy is None else xslim.attach(runner.pipe, policy, num_steps=steps)
    with attached, runner.loop_timer() as timer:
        runner.draw(batch, steps)
        return timer.take()


def _unsettled(log_ratios: Sequence[float]) -> bool:
    """Whether the middle half of the pairs is wider than the tolerance."""
    low, high = np.percentile(log_ratios, (25, 75))
    return bool(high - low > TOLERANCE)


def paired(
    runner: PipelineRunner,
    batch: Sequence[Case],
    policy: Policy | None,
    rounds: int,
    floor: float,
    num_steps: int | None = None,
) -> Latency:
    """Time a policy against the uncached model in rounds of A B B A.

    Pairs that disagree tell of other work on the machine: then more rounds follow, up to `PATIENCE` times
    as many, and the median is taken over all of them.

    Args:
        runner: the loaded pipeline, detached.
        batch: cases drawn at once.
        policy: the candidate; None times the uncached model against itself.
        rounds: at least so many; each gives two pairs.
        floor: the worker's A/A floor, carried along.
        num_steps: the candidate's denoising steps, when they are not the spec's.
    """
    ratios: list[float] = []
    base: list[float] = []
    candidate: list[float] = []
    while len(ratios) < 2 * rounds or (_unsettled(ratios) and len(ratios) < 2 * rounds * PATIENCE):
        first = time_loop(runner, batch, None)
        pair = [time_loop(runner, batch, policy, num_steps) for _ in range(2)]
        order = [first, *pair, time_loop(runner, batch, None)]
        ratios += [math.log(order[0] / order[1]), math.log(order[3] / order[2])]
        base += [order[0], order[3]]
        candidate += [order[1], order[2]]
    return Latency(
        log_ratios=tuple(ratios),
        baseline_s=float(np.median(base)),
        candidate_s=float(np.median(candidate)),
        batch=len(batch),
        floor=floor,
    )


def a_a_floor(runner: PipelineRunner, batch: Sequence[Case], rounds: int) -> Latency:
    """Time the uncached model against itself; its floor is the largest deviation of a round from 1."""
    latency = paired(runner, batch, None, rounds, 0.0)
    ratios = np.asarray(latency.log_ratios).reshape(-1, 2).mean(1)
    floor = float(np.exp(np.abs(ratios).max()) - 1)
    return Latency(latency.log_ratios, latency.baseline_s, latency.candidate_s, latency.batch, floor)
