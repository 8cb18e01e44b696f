"""Lesson: what is fitted or trained on the model before a policy is whole. Plain values, cheap to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from autotune.scoring.sampling import REFERENCE, Sampling
from xslim.policy.document import Document
from xslim.policy.policy import Policy


class RectifySettings(Document):
    """Whether one affine line is fitted for every channel (`per_channel`), or one for all."""

    per_channel: bool = False


class HarmonicaSettings(Document):
    """`beta`, the price of computing all blocks of a step, and `rollouts` of so many `pictures` each."""

    beta: Annotated[float, Field(ge=0)]
    rollouts: Annotated[int, Field(ge=1)]
    pictures: Annotated[int, Field(ge=1)] = 2


class NoSettings(Document):
    """There is nothing to set."""


# learner -> what may be set of it
LESSONS: Mapping[str, type[Document]] = MappingProxyType(
    {
        "rectify": RectifySettings,
        "mlp": NoSettings,
        "adjust-steps": NoSettings,
        "fit-levels": NoSettings,
        "harmonica": HarmonicaSettings,
    }
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned.

    Attributes:
        name: one of `autotune.scoring.learning.LEARNERS`.
        settings: of the learner, as of `LESSONS`.
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
