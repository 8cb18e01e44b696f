"""Lesson: what is fitted or trained on the model before a policy is whole. Plain values, cheap to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.scoring.sampling import REFERENCE, Sampling
from xslim.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned.

    Attributes:
        name: one of `autotune.scoring.learning.LEARNERS`.
        settings: of the learner.
        folder: where weights may be written.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Learned:
    """A policy and how it is sampled, before or after a lesson."""

    policy: Policy
    sampling: Sampling = REFERENCE
