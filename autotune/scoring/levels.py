"""Fitted noise levels: where a request of few steps takes them, so that it ends where the reference ends.

Source: learning the discretisation of a solver against a teacher's samples, as in arXiv:2405.15506 and, with
another objective, arXiv:2404.14507. There gradients pass through the solver; here the levels are so few that
a search along the coordinates needs some dozens of requests, and no gradient of the model. (Finite
differences did worse: solvers round their timesteps.) What is fitted are constants of a request: at run time
they cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.watching import watched
from autotune.scoring.sampling import Sampling
from xslim.errors import ConfigError

TRIES = 7  # requests for each level
STEP = 0.25  # first change of a gap's logarithm
LONGER, SHORTER = 1.3, 0.5  # change of a step after a success, and where neither direction helps
DIGITS = 6  # significant digits of a level

Floats = NDArray[np.float64]
Loss = Callable[[Floats], float]


def fit_levels(runner: PipelineRunner, cases: Sequence[Case], sampling: Sampling) -> Sampling:
    """Fit the noise levels of an uncached request to the reference's latents.

    Args:
        runner: of the model, detached.
        cases: the first batch of them is drawn: once as the reference, then some dozens of times.
        sampling: the number of steps and the scheduler.

    Returns:
        The sampling with noise levels, as the pipeline's call takes them.

    Raises:
        ConfigError: pipeline or scheduler take no noise levels.
    """
    batch = next(runner.batches(cases))
    target = runner.draw(batch).latents.double()
    top, gaps = _own_gaps(runner, batch, sampling)

    def sampled(gaps: Floats) -> Sampling:
        levels = levels_of(gaps, top)
        return Sampling(scheduler=sampling.scheduler, sigmas=tuple(float(f"{v:.{DIGITS}g}") for v in levels))

    def error(gaps: Floats) -> float:
        with runner.sampled(sampled(gaps)):
            return float((runner.draw(batch).latents.double() - target).square().mean())

    return sampled(coordinate_search(error, gaps, TRIES * len(gaps)))


def levels_of(gaps: Floats, top: float) -> Floats:
    """Noise levels, falling from the top; the last gap ends at 0.

    Args:
        gaps: logarithms of the gaps between levels, up to a constant, [steps].
        top: the first level.
    """
    widths = np.exp(gaps - gaps.max())
    levels: Floats = top * (1 - np.append(0.0, np.cumsum(widths / widths.sum())[:-1]))
    return levels


def gaps_of(levels: Sequence[float]) -> Floats:
    """Logarithms of the gaps between levels, the last one to 0; the inverse of `levels_of`."""
    found: Floats = np.log(-np.diff(np.append(np.asarray(levels, dtype=np.float64), 0.0)))
    return found


def coordinate_search(loss: Loss, start: Floats, tries: int) -> Floats:
    """Minimise a loss along one coordinate after the other; never worse than the start.

    Args:
        loss: of parameters [n].
        start: parameters.
        tries: how often the loss is taken beside the start's.

    Source: the exploratory moves of R. Hooke and T. A. Jeeves, J. ACM 8, 1961; each coordinate has its step.
    """
    x, best, left = start, loss(start), tries
    steps = np.full(len(x), STEP)
    while left > 0:
        for i, unit in enumerate(np.eye(len(x))):
            for move in (unit * steps[i], -unit * steps[i]):
                if left == 0:
                    return x
                left -= 1
                if (found := loss(x + move)) < best:
                    x, best = x + move, found
                    steps[i] *= LONGER
                    break
            else:
                steps[i] *= SHORTER
    return x


def _own_gaps(runner: PipelineRunner, batch: Sequence[Case], sampling: Sampling) -> tuple[float, Floats]:
    """The first noise level that the pipeline gives its scheduler, and the gaps between all."""
    given: dict[str, Any] = {}
    with (
        runner.sampled(sampling),
        watched(runner.pipe.scheduler, "set_timesteps", lambda a, _: given.update(a)),
    ):
        runner.draw(batch)
    levels = given.get("sigmas")
    if levels is None:
        raise ConfigError(
            f"got {type(runner.pipe).__name__}, which sets its scheduler by a number of steps; fitted noise "
            "levels need a pipeline that gives it sigmas",
            key="request.sigmas",
        )
    return float(levels[0]), gaps_of([float(level) for level in levels])
