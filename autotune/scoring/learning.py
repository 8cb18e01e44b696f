"""Learners: what published methods fit or train on the model itself, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from autotune.scoring.case import Case
from autotune.scoring.compensation import save_compensation, train
from autotune.scoring.harmonica import learn_table
from autotune.scoring.lesson import HarmonicaSettings, Learned, Lesson, RectifySettings
from autotune.scoring.levels import fit_levels
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.rectify import fit_corrector, record
from autotune.scoring.step_adjust import calibrated_sampling
from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

MAX_LINES = 50_000  # of steps and channels; a preset is read whole at every start
Learner = Callable[[PipelineRunner, Lesson, Learned, Sequence[Case]], Learned]


def rectify(runner: PipelineRunner, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
    """Fit a static policy's affine corrector on uncached runs.

    Raises:
        ConfigError: a preset, which holds every number, would get too long.
    """
    per_channel = RectifySettings.parse(lesson.settings).per_channel
    with runner.sampled(given.sampling):
        residuals = record(runner, cases)
    lines = residuals.shape[1] * residuals.shape[3]
    if per_channel and lines > MAX_LINES:
        raise ConfigError(f"{lines} lines for each step and channel; a preset holds {MAX_LINES} at most")
    corrector = fit_corrector(residuals, given.policy, per_channel)
    return replace(given, policy=given.policy.model_copy(update={"corrector": corrector}))


def compensate(runner: PipelineRunner, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
    """Train a static policy's corrector network on uncached runs; its weights go to the lesson's folder."""
    with runner.sampled(given.sampling):
        weights = train(record(runner, cases), given.policy)
    name = sha256(repr(given.policy.to_data()).encode()).hexdigest()[:16]
    corrector = save_compensation(weights, Path(lesson.folder) / f"mlp-{name}.safetensors")
    return replace(given, policy=given.policy.model_copy(update={"corrector": corrector}))


def adjust_steps(runner: PipelineRunner, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
    """Adjust the noise levels to what a static policy reuses."""
    return replace(given, sampling=calibrated_sampling(runner, cases, given.policy, given.sampling))


def levels(runner: PipelineRunner, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
    """Fit the noise levels of a request that computes every step."""
    return replace(given, sampling=fit_levels(runner, cases, given.sampling))


def harmonica(runner: PipelineRunner, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
    """Learn a table in place of the policy's controller."""
    settings = HarmonicaSettings.parse(lesson.settings)
    table = learn_table(runner, cases, settings.beta, settings.rollouts, settings.pictures)
    data: dict[str, Any] = {**given.policy.to_data(), "controller": {"kind": "table", "blocks": table}}
    return replace(given, policy=Policy.parse(data))


LEARNERS: Registry[Learner] = Registry(
    "learner",
    {
        "rectify": rectify,
        "mlp": compensate,
        "adjust-steps": adjust_steps,
        "fit-levels": levels,
        "harmonica": harmonica,
    },
    ConfigError,
)
