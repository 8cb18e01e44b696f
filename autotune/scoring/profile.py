"""The profile: one uncached pass that records residuals and signals, and how much each step matters.

From it come the calibration of every signal to the true residual change, the step curve, and the cost
of every static schedule under every predictor without running the transformer again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import xslim
from autotune.scoring.case import Case
from autotune.scoring.cost import CostModel
from autotune.scoring.cost_count import Subject, count_cost
from autotune.scoring.curve import jumps, sigma_windows
from autotune.scoring.drawn import Drawn
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.loading import transformers
from autotune.scoring.residuals import record_residuals
from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.policy import SIGNALS, TABLE_SIGNALS, Policy
from xslim.policy.preset import ModelSignature
from xslim.runtime.model import LiveModel
from xslim.runtime.signature import describe_model

CALIBRATION_POINTS = 9
COLUMNS = 2**20  # of residuals that are multiplied at once
MEASURED = tuple(name for name in SIGNALS if name not in TABLE_SIGNALS)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one uncached pass tells.

    Attributes:
        signature: model and request that were profiled.
        gram: inner products of the stack residuals of all steps, [rows, steps, steps].
        change: relative L1 change of the residual against the previous step, [steps - 1], mean over rows.
        sensitivity: error of the final picture per unit of residual error at each step, [steps].
        calibration: signal -> points of its map to the change.
        fit: signal -> rank correlation of the signal with the change.
        curve: mean |change of the residual| from step i to i + 1, [steps - 1], mean over rows.
        gamma: growth of the residual, mean over tokens of |residual| by the previous step's, [steps - 1].
        jumps: steps behind an outlier of the curve; a policy had better compute them.
        sigma_windows: the same as ranges of sigma, for `guards.sigma_windows`.
        cost: what any schedule costs; its seconds are fitted by `autotune profile` only.
    """

    signature: ModelSignature
    gram: NDArray[np.float64]
    change: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    calibration: dict[str, Calibration]
    fit: dict[str, float]
    curve: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    gamma: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    jumps: tuple[int, ...] = ()
    sigma_windows: tuple[tuple[float, float], ...] = ()
    cost: CostModel | None = None

    @property
    def num_steps(self) -> int:
        """Denoising steps."""
        return int(self.gram.shape[1])

    def to_json(self) -> str:
        """Return the profile as JSON; `from_json` reads it back."""
        data = {
            "signature": self.signature.to_data(),
            "gram": self.gram.tolist(),
            "change": self.change.tolist(),
            "sensitivity": self.sensitivity.tolist(),
            "calibration": {name: c.to_data() for name, c in self.calibration.items()},
            "fit": self.fit,
            "curve": self.curve.tolist(),
            "gamma": self.gamma.tolist(),
            "jumps": self.jumps,
            "sigma_windows": self.sigma_windows,
            "cost": None if self.cost is None else self.cost.to_data(),
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        return cls(
            signature=ModelSignature.parse(data["signature"]),
            gram=np.asarray(data["gram"]),
            change=np.asarray(data["change"]),
            sensitivity=np.asarray(data["sensitivity"]),
            calibration={name: Calibration.parse(c) for name, c in data["calibration"].items()},
            fit=data["fit"],
            curve=np.asarray(data.get("curve", [])),
            gamma=np.asarray(data.get("gamma", [])),
            jumps=tuple(data.get("jumps", ())),
            sigma_windows=tuple((low, high) for low, high in data.get("sigma_windows", ())),
            cost=None if data.get("cost") is None else CostModel.parse(data["cost"]),
        )


def take_profile(
    runner: PipelineRunner,
    cases: Sequence[Case],
    sensitivity_cases: int,
    outputs: Callable[[Sequence[Case]], Drawn] | None = None,
) -> Profile:
    """Profile a pipeline on some cases; the model must be detached.

    Args:
        runner: the loaded pipeline.
        cases: drawn in batches of the runner's size.
        sensitivity_cases: of these, how many are drawn once more for every step.
        outputs: gives the uncached outputs of a batch, such as a store of them; None draws them.

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
    grams, changes, readings = [], [], []
    curves, gammas = [], []
    latent_shape: tuple[int, ...] = ()
    for batch in runner.batches(cases):
        with record_residuals(runner) as recorded:
            readings.append(_readings(runner, batch))
        stacked = recorded.by_step(runner.spec.num_steps)
        latent_shape = recorded.latent_shape
        grams.append(_gram(stacked) * recorded.share)
        delta = (stacked[1:] - stacked[:-1]).abs().flatten(2).mean(2)
        changes.append((delta / stacked[:-1].abs().flatten(2).mean(2)).double().numpy())
        curves.append(delta.double().numpy())
        gammas.append(_growth(stacked).double().numpy())
    gram = np.concatenate(grams)
    change = np.concatenate(changes, axis=1)  # [steps - 1, rows]
    signals = {name: np.concatenate([r[name] for r in readings], axis=1) for name in readings[0]}
    curve, gamma = (np.concatenate(parts, axis=1).mean(1) for parts in (curves, gammas))
    calibration, fit = _calibrate(signals, change, gamma)
    model = LiveModel(runner.pipe.transformer)
    signature = describe_model(
        model.adapter.family,
        runner.pipe.transformer,
        runner.pipe.scheduler,
        runner.spec.num_steps,
        latent_shape,
        runner.guidance_scale,
    )
    few = tuple(cases)[:sensitivity_cases]
    sensitivity = _sensitivity(runner, few, (outputs or runner.draw)(few), gram)
    found = jumps(curve)
    windows = sigma_windows(found, signature.sigmas)
    cost = count_cost(Subject.of(runner, next(runner.batches(cases))))
    return Profile(
        signature, gram, change.mean(1), sensitivity, calibration, fit, curve, gamma, found, windows, cost
    )


def _gram(residuals: Tensor) -> NDArray[np.float64]:
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


def _readings(runner: PipelineRunner, batch: Sequence[Case]) -> dict[str, NDArray[np.float64]]:
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
    signals: dict[str, NDArray[np.float64]], change: NDArray[np.float64], gamma: NDArray[np.float64]
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


def _rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's; 0 where either does not vary."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic) if min(len(np.unique(x)), len(np.unique(y))) > 1 else 0.0


def _sensitivity(
    runner: PipelineRunner, cases: Sequence[Case], uncached: Drawn, gram: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Picture error per unit of residual error, measured by holding the residual at one step at a time."""
    steps = runner.spec.num_steps
    reference = uncached.images
    # length of the residual's change at each step, over the rows of all profiled cases
    diagonal = np.einsum("rii->ri", gram)
    off = np.einsum("rii->ri", gram[:, 1:, :-1])
    lengths = np.sqrt(np.maximum(diagonal[:, 1:] + diagonal[:, :-1] - 2 * off, 1e-12)).mean(0)
    result = np.zeros(steps)
    for step in range(1, steps):
        pattern = "F" * step + "." + "F" * (steps - step - 1)
        with xslim.attach(runner.pipe, Policy.from_pattern(pattern), num_steps=steps):
            drawn = runner.draw(cases).images
        error = float((drawn - reference).square().mean().sqrt())
        result[step] = error / lengths[step - 1]
    result[0] = result[1]
    return result
