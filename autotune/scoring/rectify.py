"""Correctors from recorded residuals: what a predictor gets wrong in the same way on every sample.

Source: arXiv:2508.21091 and arXiv:2604.04018, see `xslim.policy.prediction.Affine`. The fit is least squares
of the true error on the prediction, step by step, along uncached trajectories: what earlier skips change
in the latent is not in it, and a refreshed step counts as computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.residuals import record_residuals
from xslim.errors import ConfigError
from xslim.policy.controller import static_decision
from xslim.policy.decision import Action, StepInfo
from xslim.policy.policy import DualThreshold, Policy
from xslim.policy.prediction import Affine
from xslim.runtime.compensation import load_compensation
from xslim.runtime.feature_cache import ResidualHistory
from xslim.runtime.predictors import predict
from xslim.runtime.rows import Rows

DIGITS = 6  # significant digits kept of every fitted number; fp32 has 7

Floats = NDArray[np.float64]


def record(runner: PipelineRunner, cases: Sequence[Case]) -> NDArray[np.float32]:
    """Stack residuals of uncached runs, [rows, steps, tokens, dim]; both guidance halves are rows."""
    batches = []
    for batch in runner.batches(cases):
        with record_residuals(runner) as found:
            runner.draw(batch)
        batches.append(found.by_step(runner.num_steps).transpose(0, 1).numpy())
    return np.concatenate(batches)


def fit_corrector(residuals: NDArray[np.float32], policy: Policy, per_channel: bool = False) -> Affine:
    """Fit a corrector to the predictions of a static policy.

    Args:
        residuals: stack residuals of uncached runs, [rows, steps, tokens, dim]; see `record_residuals`.
        policy: a static policy of as many steps and its predictor; a corrector that it has is left out.
        per_channel: fit one slope and offset for every channel instead of one for all.

    Returns:
        Entries for every step; 0 where nothing is predicted.

    Raises:
        ConfigError: the policy decides online, or is for another number of steps.
    """
    count = residuals.shape[1]
    slopes: list[float | tuple[float, ...]] = [0.0] * count
    offsets: list[float | tuple[float, ...]] = [0.0] * count
    plain = policy.model_copy(update={"corrector": None})
    for step, predicted, true in predictions(residuals, plain):
        columns = (-1, predicted.shape[-1] if per_channel else 1)
        slope, offset = _line(predicted.reshape(columns), (predicted - true).reshape(columns))
        slopes[step], offsets[step] = _entry(slope), _entry(offset)
    return Affine(slope=tuple(slopes), offset=tuple(offsets))


def prediction_error(residuals: NDArray[np.float32], policy: Policy) -> Floats:
    """Mean squared error of a static policy's predictions, corrector included, [steps]; 0 where it computes.

    Args:
        residuals: stack residuals of uncached runs, [rows, steps, tokens, dim].
        policy: a static policy of as many steps, its predictor and its corrector.

    Raises:
        ConfigError: the policy decides online, or is for another number of steps.
    """
    errors = np.zeros(residuals.shape[1])
    for step, predicted, true in predictions(residuals, policy):
        errors[step] = np.square(predicted - true).mean()
    return errors


def skipped_steps(policy: Policy, count: int) -> frozenset[int]:
    """Steps at which a static policy predicts the whole stack; refreshed ones are not among them.

    Args:
        policy: of a pattern or table of so many steps, or of an interval.
        count: steps of the request.

    Raises:
        ConfigError: the policy decides online, or is for another number of steps.
    """
    controller = policy.controller
    if isinstance(controller, DualThreshold) or policy.num_steps not in (None, count):
        got = (
            "one that decides online"
            if isinstance(controller, DualThreshold)
            else f"{policy.num_steps} steps"
        )
        raise ConfigError(f"got {got}; give a static one of {count} steps, as recorded", key="controller")
    actions = (static_decision(controller, StepInfo(step, count)).action for step in range(count))
    # the first step is full whatever the schedule says
    return frozenset(step for step, action in enumerate(actions) if step and action is Action.SKIP)


def predictions(residuals: NDArray[np.float32], policy: Policy) -> Iterator[tuple[int, Floats, Floats]]:
    """Every predicted step with the prediction and what was true, [rows, tokens, dim]."""
    rows, count = residuals.shape[:2]
    skipped = skipped_steps(policy, count)
    everyone = Rows.of([True] * rows, torch.device("cpu"))
    history, network = ResidualHistory(policy.history), load_compensation(policy.corrector)
    for step in range(count):
        recorded = np.ascontiguousarray(residuals[:, step])
        if step in skipped:
            predicted = predict(policy, history, StepInfo(step, count), network)
            yield step, predicted.double().numpy(), recorded.astype(np.float64)
        else:
            history.push(torch.from_numpy(recorded), float(step), everyone)


def _line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Slope and offset of y on x by least squares, column by column, [columns] each."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    spread = np.square(x - mean_x).mean(0)
    together = ((x - mean_x) * (y - mean_y)).mean(0)
    slope = np.divide(together, spread, out=np.zeros_like(spread), where=spread > 0)
    return slope, mean_y - slope * mean_x


def _entry(values: Floats) -> float | tuple[float, ...]:
    rounded = tuple(float(f"{value:.{DIGITS}g}") for value in values)
    return rounded if len(rounded) > 1 else rounded[0]
