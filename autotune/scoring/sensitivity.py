"""How much each step matters: the picture's error when the residual is held at one step, by its length.

Measured at some steps, because each takes a drawing, and interpolated between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import xslim
from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.profile import Array, Profile
from xslim.policy.policy import Policy

PROBES = 12  # steps at which it is measured; it varies slowly over the steps
LEAST = 1e-9  # of an error: a probe whose picture does not change has no logarithm


def probe_steps(num_steps: int, probes: int = PROBES) -> tuple[int, ...]:
    """Return the steps to probe: evenly spaced, the first and last that can be skipped among them."""
    return tuple(int(s) for s in np.unique(np.linspace(1, num_steps - 1, probes).round()))


def probe(runner: PipelineRunner, cases: Sequence[Case], uncached: Drawn, step: int) -> float:
    """Draw with the residual held at one step; return the root mean squared error of the pictures."""
    steps = runner.spec.num_steps
    pattern = "F" * step + "." + "F" * (steps - step - 1)
    with xslim.attach(runner.pipe, Policy.from_pattern(pattern), num_steps=steps):
        drawn = runner.draw(cases).images
    return float((drawn - uncached.images).square().mean().sqrt())


def sensitivity(profile: Profile, errors: Mapping[int, float]) -> Array:
    """Picture error per unit of residual error at every step, [steps].

    Args:
        profile: of the same model; its residuals tell how large an error each probe made.
        errors: probed step -> what `probe` returned; at least one.
    """
    probed = sorted(errors)
    measured = [max(errors[step], LEAST) / profile.lengths[step - 1] for step in probed]
    found: Array = np.exp(np.interp(np.arange(profile.num_steps), probed, np.log(measured)))
    return found
