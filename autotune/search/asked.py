"""What a point asks of the profile instead of the policy: a schedule, or a threshold."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field

from autotune.search.error_model import COHERENCE, Weighting
from xslim.policy.document import Document
from xslim.policy.policy import Policy

# searched keys below these are no policy keys: they ask the profile for a schedule, or for a threshold
SCHEDULE, QUANTILE = "schedule", "quantile"
Rule = Literal["sum", "max"]
Even = Literal["even"]  # the rule that asks for no costs, see `autotune.search.gaps.evenly`
Coefficient = Annotated[float, Field(ge=-10.0, le=10.0)]


class Schedule(Document):
    """What a family asks of the profile; the keys `schedule.*`.

    Attributes:
        full_steps: computed steps.
        refreshes: skipped steps that become refreshes.
        polish: letters that the refreshes take in turn.
        tilt: how much more late steps weigh than the profile says; see `Weighting`.
        bend: likewise of both ends.
        wave_3, wave_4, wave_5, wave_6, wave_7, wave_8: likewise in finer and finer waves.
        coherence: how far errors of neighbouring steps add up; 0 makes the schedule that of DPCache.
        rule: the exact schedule to start from: the least sum of its gaps, or the least worst gap (LeMiCa);
            or `even`: evenly spread whatever the profile says (FORA), but for tilt and bend.
    """

    full_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    refreshes: Annotated[int, Field(ge=0, le=10_000)] = 0
    polish: Annotated[str, Field(pattern=r"^[BT]{1,100}$")] = "B"
    tilt: Coefficient = 0.0
    bend: Coefficient = 0.0
    wave_3: Coefficient = 0.0
    wave_4: Coefficient = 0.0
    wave_5: Coefficient = 0.0
    wave_6: Coefficient = 0.0
    wave_7: Coefficient = 0.0
    wave_8: Coefficient = 0.0
    coherence: Annotated[float, Field(ge=0.0, le=1.0)] = COHERENCE
    rule: Rule | Even = "sum"

    @property
    def weighting(self) -> Weighting:
        """How steps weigh."""
        waves = (self.wave_3, self.wave_4, self.wave_5, self.wave_6, self.wave_7, self.wave_8)
        return Weighting(self.tilt, self.bend, self.coherence, waves)


class Quantile(Document):
    """A threshold asked of the profile; the keys `quantile.*`.

    Attributes:
        critical: share of the recorded windows whose error stays below `controller.critical`.
    """

    critical: Annotated[float, Field(ge=0.0, le=1.0)]


class Planner(Protocol):
    """Makes schedules and thresholds from a profile; see `autotune.search.schedules.Scheduler`."""

    def pattern(self, policy: Policy, asked: Schedule) -> str:
        """Return one letter a step."""
        ...

    def threshold(self, policy: Policy, quantile: float) -> float:
        """Return a value of `controller.critical`."""
        ...
