"""A preset with a corrector fitted to its own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.scoring.case import Case
from autotune.scoring.compensation import save_compensation, train
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from autotune.scoring.rectify import fit_corrector, prediction_error, record
from autotune.scoring.sampling import preset_sampling
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.prediction import Affine, Mlp
from xslim.policy.preset import Preset, Quality

CorrectorKind = Literal["affine", "per-channel", "mlp"]


@dataclass(frozen=True, slots=True)
class Rectified:
    """A preset with a fitted corrector, without evidence.

    Attributes:
        preset: the preset; its name says so, and its quality is empty.
        before: mean squared error of the predicted residuals without the corrector, on cases not fitted on.
        after: the same with it.
    """

    preset: Preset
    before: float
    after: float


def fit_preset(
    model: ModelSpec, cases: Sequence[Case], preset: Preset, kind: CorrectorKind, weights: Path
) -> Rectified:
    """Fit a preset's corrector on one half of some cases, and take its error on the other.

    Args:
        model: what is run.
        cases: at least two.
        preset: a preset whose controller is static.
        kind: one line for all channels of a step, one for each, or a network for all steps.
        weights: file that a network is written to; not touched by the other kinds.

    Raises:
        ConfigError: the preset is of another number of steps or decides online, or there is one case only.
    """
    sampling = preset_sampling(preset)
    if preset.model.num_steps != sampling.steps(model.num_steps):
        raise ConfigError(
            f"got a preset of {preset.model.num_steps} steps; the experiment has {model.num_steps}",
            key="--rectify",
        )
    if len(cases) < 2:
        raise ConfigError(
            "got 1; a corrector is fitted on one half of the cases, and needs 2", key="cases.search"
        )
    runner = PipelineRunner(model)
    half = len(cases) // 2
    with runner.sampled(sampling):
        seen, unseen = (record(runner, part) for part in (cases[:half], cases[half:]))
    plain = preset.policy.model_copy(update={"corrector": None})
    policy = plain.model_copy(update={"corrector": _fit(seen, plain, kind, weights)})
    before, after = (float(prediction_error(unseen, p).mean()) for p in (plain, policy))
    changes = {"policy": policy, "quality": Quality(), "name": f"{preset.name}-rectified"}
    return Rectified(preset.model_copy(update=changes), before, after)


def _fit(residuals: NDArray[np.float32], policy: Policy, kind: CorrectorKind, weights: Path) -> Affine | Mlp:
    if kind == "mlp":
        return save_compensation(train(residuals, policy), weights)
    return fit_corrector(residuals, policy, per_channel=kind == "per-channel")
