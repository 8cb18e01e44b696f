"""Learners: what published methods fit or train on the model itself, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.scoring.case import Case
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.rectify import fit_corrector, record
from xslim._registry import Registry
from xslim.errors import ConfigError

Learner = Callable[[PipelineRunner, Lesson, Learned, Sequence[Case]], Learned]


def rectify(runner: PipelineRunner, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
    """Fit a pattern's affine corrector on uncached runs. Settings: `per_channel`."""
    per_channel = bool(lesson.settings.get("per_channel", False))
    with runner.sampled(given.sampling):
        residuals = record(runner, cases)
    corrector = fit_corrector(residuals, given.policy, per_channel)
    return replace(given, policy=given.policy.model_copy(update={"corrector": corrector}))


LEARNERS: Registry[Learner] = Registry("learner", {"rectify": rectify}, ConfigError)
