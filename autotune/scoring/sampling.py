"""How a request is sampled: its steps, noise levels and scheduler, where they are not the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document
from xslim.policy.preset import Preset

Level = Annotated[float, Field(gt=0.0, le=1e6)]
SHOWN = 3  # noise levels in a line


class SchedulerChoice(Document):
    """A diffusers scheduler that takes the place of the pipeline's own.

    Attributes:
        name: class name, such as `DPMSolverMultistepScheduler`.
        config: settings that differ from the own scheduler's; all others are taken over.
    """

    name: Annotated[str, Field(min_length=1)]
    config: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.config.items())
        return f"{self.name} with {settings}" if settings else self.name


class Sampling(Document):
    """What of a request differs from the reference configuration; the keys `request.*` of a search space.

    Attributes:
        num_steps: denoising steps; None for the reference's.
        scheduler: a class name, or name and settings; None for the pipeline's own.
        sigmas: noise levels as a pipeline's call takes `sigmas=`: falling, one a step, before the
            scheduler's shift and without the 0 at the end. They set `num_steps`. None for the pipeline's own.
    """

    num_steps: Annotated[int, Field(ge=2, le=10_000)] | None = None
    scheduler: SchedulerChoice | None = None
    sigmas: Annotated[tuple[Level, ...], Field(strict=False, min_length=2, max_length=10_000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, data: Any) -> Any:
        """The number of sigmas is the number of steps."""
        sigmas = data.get("sigmas") if isinstance(data, Mapping) else None
        if isinstance(sigmas, list | tuple) and data.get("num_steps") is None:
            return {**data, "num_steps": len(sigmas)}
        return data

    @field_validator("scheduler", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sigmas is None:
            return self
        if len(self.sigmas) != self.num_steps:
            raise ConfigError(
                f"{len(self.sigmas)} values and {self.num_steps} num_steps; give one a step, or no num_steps",
                key="sigmas",
            )
        for step, (sigma, following) in enumerate(pairwise(self.sigmas)):
            if following >= sigma:
                raise ConfigError(
                    f"got {following:g} after {sigma:g}; give falling ones", key=f"sigmas.{step + 1}"
                )
        return self

    def against(self, num_steps: int) -> Sampling:
        """Return the same sampling without the number of steps if that is the reference's."""
        if self.num_steps != num_steps or self.sigmas is not None:
            return self
        return self.model_copy(update={"num_steps": None})

    def steps(self, reference: int) -> int:
        """Denoising steps, where the reference configuration has so many."""
        return reference if self.num_steps is None else self.num_steps

    def __str__(self) -> str:
        steps = "" if self.num_steps is None else f"{self.num_steps} steps"
        scheduler = "" if self.scheduler is None else str(self.scheduler)
        sigmas = "" if self.sigmas is None else f"sigmas {_short(self.sigmas)}"
        return ", ".join(part for part in (steps, sigmas, scheduler) if part) or "as the reference"

    def to_data(self) -> dict[str, Any]:
        """Return plain data that `parse` reads back; empty for the reference configuration."""
        return {name: value for name, value in super().to_data().items() if value is not None}


def _short(sigmas: tuple[float, ...]) -> str:
    shown = [f"{sigma:g}" for sigma in sigmas]
    return " ".join(shown if len(shown) <= 2 * SHOWN else [*shown[:SHOWN], "…", *shown[-SHOWN:]])


REFERENCE = Sampling()


def sampling_of(data: Mapping[str, Any]) -> Sampling:
    """Read what `to_data` gave; nothing is the reference configuration."""
    return Sampling.parse(data) if data else REFERENCE


def preset_sampling(preset: Preset) -> Sampling:
    """How a preset is sampled, by its provenance.

    Raises:
        ConfigError: the provenance is at fault.
    """
    told: Any = preset.provenance.get("sampling", {})
    try:
        return sampling_of(told)
    except ConfigError as error:
        raise error.at(key=f"provenance.sampling.{error.key}") from None
