"""Indicator: the signals that an online policy reads, and how they become growth of the error estimate."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.calibration import Polynomial, SignalMap
from xslim.policy.document import UNWRITTEN, Document

TABLE_SIGNALS = ("step_table", "gamma")  # read from the policy, by progress; the others from tensors
SIGNALS = (
    "modulated_input",
    "latent_velocity",
    "first_block",
    "timestep_embedding",
    "direction_stability",
    *TABLE_SIGNALS,
)
CHANGES = ("modulated_input", "first_block", "timestep_embedding")  # compare a feature with an earlier one
RESIDUALS_READ = {"direction_stability": 3}  # computed residuals that a signal reads
Compare = Literal["previous", "computed"]
Weight = Annotated[float, Field(ge=0.0)]


class Indicator(Document):
    """Signals and their weights; their weighted sum is the growth of the error estimate per step.

    Attributes:
        signals: signal -> weight.
        calibration: signal -> map of its raw value to the residual's true relative change. A table over
            progress for `step_table` (that change) and for `gamma` (size of the residual relative to the
            first step's), see `Calibration`; of the others a polynomial will do.
        compare: what the signals of `CHANGES` compare with: the step before, or the sample's last full step,
            as First-Block Cache does.
        accumulate: `sum` adds the growth up since the last full step; `latest` takes this step's alone, as
            First-Block Cache, DBCache and TC-Padé (arXiv:2603.02943) do.
    """

    signals: dict[str, Weight] = Field(default_factory=lambda: {"modulated_input": 1.0})
    calibration: dict[str, SignalMap] = Field(default_factory=dict)
    compare: Annotated[Compare, UNWRITTEN] = "previous"
    accumulate: Annotated[Literal["sum", "latest"], UNWRITTEN] = "sum"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, names in (("signals", self.signals), ("calibration", self.calibration)):
            for name in names:
                if name not in SIGNALS:
                    raise ConfigError(f"unknown signal; allowed: {', '.join(SIGNALS)}", key=f"{key}.{name}")
        if not any(weight > 0 for weight in self.signals.values()):
            raise ConfigError("no signal has a weight above 0; give one", key="signals")
        for name in TABLE_SIGNALS:
            if isinstance(self.calibration.get(name), Polynomial):
                raise ConfigError(
                    f"got a polynomial; {name} needs a table over progress, {{x: [...], y: [...]}}",
                    key=f"calibration.{name}",
                )
            if self.signals.get(name, 0) > 0 and name not in self.calibration:
                raise ConfigError(
                    f"{name} needs its table; run `autotune profile` or leave the signal out",
                    key=f"calibration.{name}",
                )
        return self

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the signals with a weight above 0."""
        return tuple(name for name, weight in self.signals.items() if weight > 0)

    def compares(self, name: str) -> Compare:
        """What a signal compares with; `previous` for those that compare no feature."""
        return self.compare if name in CHANGES else "previous"

    @property
    def follows_decisions(self) -> bool:
        """Whether a used signal has other values when other steps are full, so that none can be recorded."""
        return any(self.compares(name) == "computed" for name in self.used)
