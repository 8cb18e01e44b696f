"""How a request is sampled: its number of steps and its scheduler, where they are not the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document
from xslim.policy.preset import Preset


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
    """

    num_steps: Annotated[int, Field(ge=2, le=10_000)] | None = None
    scheduler: SchedulerChoice | None = None

    @field_validator("scheduler", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def against(self, num_steps: int) -> Sampling:
        """Return the same sampling without the number of steps if that is the reference's."""
        return self if self.num_steps != num_steps else self.model_copy(update={"num_steps": None})

    def steps(self, reference: int) -> int:
        """Denoising steps, where the reference configuration has so many."""
        return reference if self.num_steps is None else self.num_steps

    def __str__(self) -> str:
        steps = "" if self.num_steps is None else f"{self.num_steps} steps"
        scheduler = "" if self.scheduler is None else str(self.scheduler)
        return ", ".join(part for part in (steps, scheduler) if part) or "as the reference"

    def to_data(self) -> dict[str, Any]:
        """Return plain data that `parse` reads back; empty for the reference configuration."""
        return {name: value for name, value in super().to_data().items() if value is not None}


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
