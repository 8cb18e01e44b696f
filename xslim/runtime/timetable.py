"""The scheduler's timesteps, and where a call stands in them."""

from __future__ import annotations

from dataclasses import dataclass

from xslim.runtime.arrival import Time
from xslim.runtime.signature import scheduler_sigmas, scheduler_timesteps


@dataclass(frozen=True, slots=True)
class Clock:
    """A scheduler at this moment, read without waiting for a device.

    Attributes:
        stamp: its timesteps as an object; pipelines set a new one for every request.
        step: the step that it counts itself to be at; None before its first, and where it does not count.
    """

    stamp: object
    step: int | None

    @classmethod
    def of(cls, scheduler: object | None) -> Clock:
        """Read a scheduler."""
        step = getattr(scheduler, "step_index", None)
        return cls(getattr(scheduler, "timesteps", None), step if isinstance(step, int) else None)


class Timetable:
    """What a scheduler is set to at the start of a request; empty when no scheduler is seen.

    Attributes:
        stamp: the timesteps as an object; pipelines set a new one for every request.
        timesteps: one a step; second-order schedulers list some of them twice.
        sigmas: noise levels, one a step.
    """

    def __init__(self, scheduler: object | None) -> None:
        self.stamp: object = getattr(scheduler, "timesteps", None)
        self.timesteps = scheduler_timesteps(scheduler)
        self.sigmas = scheduler_sigmas(scheduler)
        self._begin: int | None = getattr(scheduler, "begin_index", None)

    def __len__(self) -> int:
        return len(self.timesteps or ())

    def first(self, time: Time) -> int | None:
        """Step of the first call of a request; None when its timestep is not in the table.

        A request such as img2img starts in the middle. Where 16 bit leave several candidates, the
        scheduler's own begin index decides, else the first.
        """
        near = [step for step, timestep in enumerate(self.timesteps or ()) if time.near(timestep)]
        if self._begin in near:
            return self._begin
        return near[0] if near else None

    def after(self, step: int, time: Time) -> int | None:
        """The next step with this timestep, or None."""
        for later in range(step + 1, len(self)):
            if self.timesteps is not None and time.near(self.timesteps[later]):
                return later
        return None

    def sigma(self, step: int) -> float | None:
        """Noise level of a step, or None when it is not known."""
        return None if self.sigmas is None or step >= len(self.sigmas) else self.sigmas[step]
