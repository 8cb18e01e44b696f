"""Takes the profile: draws cases uncached; records residuals, signals, and what blocks and tokens change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import xslim
from autotune.scoring.case import Case
from autotune.scoring.cost_count import Subject, count_cost
from autotune.scoring.curve import jumps, sigma_windows
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.loading import transformers
from autotune.scoring.profile import TOKEN_BUDGETS, Array, Profile
from autotune.scoring.residuals import Recorded, record_residuals
from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.policy import SIGNALS, TABLE_SIGNALS, Policy
from xslim.runtime.model import LiveModel
from xslim.runtime.signature import describe_model

CALIBRATION_POINTS = 9
COLUMNS = 2**20  # of residuals that are multiplied at once
MEASURED = tuple(name for name in SIGNALS if name not in TABLE_SIGNALS)


def take_profile(runner: PipelineRunner, cases: Sequence[Case]) -> Profile:
    """Profile a pipeline on some cases; the model must be detached. Its sensitivity is 1 until measured.

    Args:
        runner: the loaded pipeline.
        cases: drawn in batches of the runner's size.

    Raises:
        ConfigError: the pipeline's steps are shared by two transformers, or it does not call its
            transformer equally often at every step.
    """
    if len(transformers(runner.pipe)) > 1:
        raise ConfigError(
            f"got a {type(runner.pipe).__name__} whose steps are shared by two transformers; "
            "a policy is searched for one, so give a model with one",
            key="model.path",
        )
    steps = runner.spec.num_steps
    model = LiveModel(runner.pipe.transformer)
    grams, readings, weights = [], [], []
    changes, curves, gammas, blocks, tokens = [], [], [], [], []
    latent_shape: tuple[int, ...] = ()
    for batch in runner.batches(cases):
        with record_residuals(runner) as recorded:
            readings.append(_readings(runner, batch))
        stacked = recorded.by_step(steps)
        latent_shape = recorded.latent_shape
        grams.append(_gram(stacked) * recorded.share)
        delta = (stacked[1:] - stacked[:-1]).abs().flatten(2).mean(2)
        changes.append((delta / stacked[:-1].abs().flatten(2).mean(2)).double().numpy())
        curves.append(delta.double().numpy())
        gammas.append(_growth(stacked).double().numpy())
        tokens.append(_token_shares(stacked))
        blocks.append(_block_grams(recorded, steps, len(model.blocks)))
        weights.append(stacked.shape[1])
    gram = np.concatenate(grams)
    change = np.concatenate(changes, axis=1)  # [steps - 1, rows]
    signals = {name: np.concatenate([r[name] for r in readings], axis=1) for name in readings[0]}
    curve, gamma = (np.concatenate(parts, axis=1).mean(1) for parts in (curves, gammas))
    calibration, fit = _calibrate(signals, change, gamma)
    signature = describe_model(
        model.adapter.family,
        runner.pipe.transformer,
        runner.pipe.scheduler,
        steps,
        latent_shape,
        runner.guidance_scale,
    )
    found = jumps(curve)
    return Profile(
        signature=signature,
        gram=gram,
        change=change.mean(1),
        sensitivity=np.ones(steps),
        calibration=calibration,
        fit=fit,
        signals=signals,
        curve=curve,
        gamma=gamma,
        blocks=np.average(blocks, axis=0, weights=weights),
        tokens=np.average(tokens, axis=0, weights=weights),
        jumps=found,
        sigma_windows=sigma_windows(found, signature.sigmas),
        cost=count_cost(Subject.of(runner, next(runner.batches(cases)))),
    )


def _gram(residuals: Tensor) -> Array:
    """Inner products of steps, in double precision. Shapes: [steps, rows, …] -> [rows, steps, steps]."""
    steps, rows = residuals.shape[:2]
    total = torch.zeros(rows, steps, steps, dtype=torch.float64)
    for part in torch.split(residuals.flatten(2), COLUMNS, dim=2):  # the whole in double would not fit
        columns = part.transpose(0, 1).double()
        total += columns @ columns.transpose(1, 2)
    return total.numpy()


def _growth(residuals: Tensor) -> Tensor:
    """MagCache's gamma (arXiv:2506.09045). Shapes: [steps, rows, tokens, dim] -> [steps - 1, rows]."""
    lengths = torch.linalg.vector_norm(residuals, dim=3)
    growth: Tensor = lengths[1:] / lengths[:-1].clamp_min(1e-12)
    return growth.mean(2)


def _readings(runner: PipelineRunner, batch: Sequence[Case]) -> dict[str, Array]:
    """Draw a batch uncached with all signals measured: signal -> [steps - 1, rows], NaN where undefined."""
    policy = Policy.parse(
        {
            "controller": {"kind": "dual-threshold", "critical": 0.0, "cooldown": 0, "polish": []},
            "indicator": {"signals": dict.fromkeys(MEASURED, 1.0)},
        }
    )
    with xslim.attach(runner.pipe, policy, num_steps=runner.spec.num_steps) as session:
        runner.draw(batch)
    steps: dict[int, list[dict[str, float]]] = {}  # branch by branch in the order of the calls
    for record in session.trace.records:
        steps.setdefault(record.step, []).extend(record.readings)
    return {
        name: np.array([[row.get(name, np.nan) for row in steps[step]] for step in sorted(steps)[1:]])
        for name in MEASURED
    }


def _calibrate(
    signals: dict[str, Array], change: Array, gamma: Array
) -> tuple[dict[str, Calibration], dict[str, float]]:
    """Fit a monotone map from each signal to the residual's change; and the two tables."""
    from sklearn.isotonic import IsotonicRegression

    calibration, fit = {}, {}
    for name, values in signals.items():
        known = np.isfinite(values)
        x, y = values[known], change[known]
        if len(np.unique(x)) < 2:
            continue
        fitted = IsotonicRegression(out_of_bounds="clip").fit(x, y)
        points = np.unique(np.quantile(x, np.linspace(0, 1, CALIBRATION_POINTS)))
        calibration[name] = Calibration(
            x=tuple(float(p) for p in points), y=tuple(float(v) for v in fitted.predict(points))
        )
        fit[name] = _rank_correlation(x, y)
    steps = len(change) + 1
    curve = change.mean(1)
    progress = tuple(round(s / (steps - 1), 6) for s in range(steps))
    table = (float(curve[0]), *map(float, curve))
    calibration["step_table"] = Calibration(x=progress, y=tuple(round(v * steps, 6) for v in table))
    size = np.concatenate([[1.0], np.cumprod(gamma)])
    calibration["gamma"] = Calibration(x=progress, y=tuple(round(float(v), 6) for v in size))
    for name, grown in (("step_table", curve), ("gamma", np.abs(1 - gamma))):
        fit[name] = _rank_correlation(np.repeat(grown, change.shape[1]), change.ravel())
    return calibration, fit


def _rank_correlation(x: Array, y: Array) -> float:
    """Spearman's; 0 where either does not vary."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic) if min(len(np.unique(x)), len(np.unique(y))) > 1 else 0.0


def _block_grams(recorded: Recorded, steps: int, blocks: int) -> Array:
    """Inner products of each block's residuals, mean over rows, [blocks, steps, steps]; or empty."""
    if len(recorded.blocks) != blocks * len(recorded.residuals):
        return np.zeros(0)
    return np.stack([_gram(values).mean(0) for values in recorded.by_block(steps, blocks)])


def _token_shares(residuals: Tensor) -> Array:
    """Share of the squared change in the tokens that changed most one step before, mean over rows.

    Shapes: [steps, rows, tokens, dim] -> [steps - 1, budgets]. The first change has none before it, and is
    ranked by itself.
    """
    energy = (residuals[1:] - residuals[:-1]).double().square().sum(3)
    before = torch.cat([energy[:1], energy[:-1]])
    ranked = energy.gather(2, before.argsort(2, descending=True)).cumsum(2)
    tokens = energy.shape[2]
    last = [max(1, round(budget * tokens)) - 1 for budget in TOKEN_BUDGETS]
    shares = ranked[:, :, last] / ranked[:, :, -1:].clamp_min(1e-30)
    found: Array = shares.mean(1).numpy()
    return found
