"""Adjusted noise levels: shorter steps where a reused velocity is wrong.

Source: the step adjustment of ERTACache, arXiv:2508.21091. The true velocity is not known at run time, so the
factors are constants of a step, calibrated along uncached runs, and the noise levels they give are fixed too:
a list for the pipeline's `sigmas=`. Accounts of the paper disagree on what the error of a velocity is divided
by: the change of the velocity since the step before, or its own size. We take its own size, which is not near
0 where the velocity stands still.

What is compared is the transformer's output, not the stack residual: the scheduler integrates the output,
while the output layers and the latent that enters the stack make the residual's relative error another one.
The reused velocity is the one that the policy would give at the same latent, its predictor and corrector and
the output layers of that step included. (The paper reuses velocity minus latent.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.request import OWN_SIGMAS
from autotune.scoring.pipeline.watching import StepCount, watched
from autotune.scoring.rectify import skipped_steps
from autotune.scoring.residuals import model_output
from autotune.scoring.sampling import REFERENCE, Sampling
from xslim.errors import ConfigError
from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy
from xslim.runtime.calls import Streams
from xslim.runtime.feature_cache import ResidualHistory
from xslim.runtime.model import LiveModel
from xslim.runtime.predictors import predict
from xslim.runtime.rows import Rows
from xslim.runtime.signature import as_floats

TOGETHER = ("shift_terminal", *OWN_SIGMAS)  # settings of a scheduler
HALVINGS = 60

Floats = NDArray[np.float64]


def relative_error(true: Tensor, reused: Tensor) -> Tensor:
    """|ṽ - v|₁ / |v|₁ of every sample, [samples]; of a velocity that is 0 throughout, 0 or 1.

    Args:
        true: velocities v, [samples, …].
        reused: velocities ṽ in their place, of the same shape.
    """
    error = (reused - true).abs().flatten(1).sum(1)
    size = true.abs().flatten(1).sum(1)
    return torch.where(size > 0, error / size, (error > 0).to(error.dtype))


def trust(errors: Floats) -> float:
    """Factor φ = clip(1 - mean relative error, 0, 1) of a step, from the errors of samples.

    Source: arXiv:2508.21091, with the size of the velocity below the line.
    """
    return float(np.clip(1 - errors.mean(), 0.0, 1.0))


def adjusted_sigmas(
    sigmas: Sequence[float], factors: Sequence[float | None], end: float = 0.0
) -> list[float]:
    """Shorten the steps that reuse, and spread what is left over the steps after them.

    A step that reuses goes φ of its interval; the interval of any step is the scheduler's own, times what is
    left of the way over what the scheduler's own intervals from there would take. For equal intervals it is
    the paper's: what is left of the way over the number of steps left.

    Args:
        sigmas: the scheduler's noise levels, falling, one a step.
        factors: φ in [0, 1] of every step that reuses, None of the others. The last step goes to the end
            whatever its factor.
        end: noise level after the last step.

    Returns:
        Noise levels, one a step; where a factor is 0, a level stands twice.

    Source: arXiv:2508.21091; the rule for unequal intervals is ours.
    """
    own = [*map(float, sigmas), end]
    found, at = [], own[0]
    for step, factor in enumerate(factors):
        found.append(at)
        share = (at - end) / (own[step] - end)
        at -= (1.0 if factor is None else factor) * share * (own[step] - own[step + 1])
    return found


def calibrated_sampling(
    runner: PipelineRunner,
    cases: Sequence[Case],
    policy: Policy,
    sampling: Sampling = REFERENCE,
    least: float = 0.1,
) -> Sampling:
    """Return a sampling with noise levels adjusted to a static policy.

    Args:
        runner: of the model.
        cases: that are drawn once each, uncached, all steps that the policy skips twice.
        policy: a static policy of as many steps.
        sampling: that is adjusted.
        least: least factor; above 0, so that no step stands still.

    Raises:
        ConfigError: pipeline or scheduler take no noise levels, or the policy is not static.
    """
    arguments: dict[str, Any] = {}  # that the pipeline sets its scheduler with
    with runner.sampled(sampling):
        scheduler = runner.pipe.scheduler
        with watched(scheduler, "set_timesteps", lambda given, _: arguments.update(given)):
            factors = calibrate(runner, cases, policy)
        if arguments.pop("sigmas", None) is None:
            raise ConfigError(
                f"got {type(runner.pipe).__name__}, which sets its scheduler by a number of steps; "
                "adjusted noise levels need a pipeline that takes sigmas",
                key="request.sigmas",
            )
        own = as_floats(scheduler.sigmas[: runner.num_steps])
        wanted = adjusted_sigmas(own, [None if f is None else max(least, f) for f in factors])
        given = unshifted(scheduler, wanted, arguments)
    return Sampling(scheduler=sampling.scheduler, sigmas=tuple(given))


def calibrate(runner: PipelineRunner, cases: Sequence[Case], policy: Policy) -> list[float | None]:
    """Factors of a static policy's reused steps along uncached runs, None of the other steps.

    Raises:
        ConfigError: the policy is not static, or is for another number of steps.
    """
    skipped = skipped_steps(policy, runner.num_steps)
    found: dict[int, list[float]] = {step: [] for step in skipped}
    for batch in runner.batches(cases):
        with _velocity_errors(runner, policy, skipped) as errors:
            runner.draw(batch)
        for step, values in errors:
            found[step] += values.tolist()
    return [trust(np.array(found[i])) if found.get(i) else None for i in range(runner.num_steps)]


def unshifted(scheduler: Any, wanted: Sequence[float], arguments: Mapping[str, Any]) -> list[float]:
    """Return what to give a scheduler as `sigmas=`, so that it ends at the wanted noise levels.

    Flow-matching schedulers shift what they are given, level by level and in order; the shift is undone
    by halving.

    Args:
        scheduler: of the pipeline, left as it is.
        wanted: noise levels after the shift, falling.
        arguments: other arguments that the pipeline calls `set_timesteps` with.

    Raises:
        ConfigError: the scheduler does not map level by level.
    """
    together = next((name for name in TOGETHER if scheduler.config.get(name)), None)
    if together is not None:
        raise ConfigError(
            f"got {type(scheduler).__name__} with {together}, by which noise levels depend on each other; "
            "adjusted ones need a scheduler without it",
            key="request.scheduler",
        )
    tried, target = copy.deepcopy(scheduler), np.array(wanted)
    low, high = np.zeros(len(target)), np.full(len(target), max(1.0, target[0]))

    def made(given: Floats) -> Floats:
        tried.set_timesteps(sigmas=given, **arguments)
        return np.array(as_floats(tried.sigmas[: len(given)]))

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = made(middle) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return [float(f"{level:.7g}") for level in high]


@contextmanager
def _velocity_errors(
    runner: PipelineRunner, policy: Policy, skipped: frozenset[int]
) -> Iterator[list[tuple[int, Tensor]]]:
    """Errors of the velocity by step and call, [samples], while the uncached model runs.

    A call at a step that is skipped runs again with the prediction in place of what the stack left.
    """
    model, count = LiveModel(runner.pipe.transformer), StepCount()
    last = len(model.blocks) - 1
    errors: list[tuple[int, Tensor]] = []
    histories: dict[int, ResidualHistory] = {}  # of every call of a step
    seen: dict[str, Tensor] = {}  # what entered the stack, what left it, and what is to leave it

    def enter(_: Any, args: Any, kwargs: Any) -> None:
        seen["entered"] = model.call(0, args, kwargs).streams.image

    def leave(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
        call = model.call(last, args, kwargs, seen["entered"].shape[1])
        streams = call.unpack(output)
        seen["left"] = streams.image
        return call.pack(Streams(seen["instead"], streams.text)) if "instead" in seen else None

    def called(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        count.enter()
        history = histories.setdefault(count.call, ResidualHistory(policy.history))
        residual = seen["left"] - seen["entered"]
        if count.step not in skipped:
            rows = Rows.of([True] * len(residual), residual.device)
            history.push(residual, float(count.step), rows)
            return
        predicted = predict(policy, history, StepInfo(count.step, runner.num_steps))
        seen["instead"] = seen["entered"] + predicted
        reused = module.forward(*args, **kwargs)
        del seen["instead"]
        errors.append((count.step, relative_error(model_output(output), model_output(reused)).cpu()))

    handles = [
        model.blocks[0].register_forward_pre_hook(enter, with_kwargs=True),
        model.blocks[last].register_forward_hook(leave, with_kwargs=True),
        model.transformer.register_forward_hook(called, with_kwargs=True),
    ]
    try:
        with count.of(runner.pipe.scheduler):
            yield errors
    finally:
        for handle in handles:
            handle.remove()
