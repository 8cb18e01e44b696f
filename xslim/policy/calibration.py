"""Calibration: a map from a raw signal to the true relative residual change, of points or a polynomial."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, model_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document

Coefficients = Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=32)]
Points = Annotated[tuple[float, ...], Field(strict=False, min_length=2, max_length=10_000)]


class Calibration(Document):
    """Points of a piecewise-linear map; outside the fitted range it goes on proportionally.

    For measured signals x is the raw signal and the map never falls. For the two tables x is the step's
    progress from 0 (first step) to 1 (last), so that a table made for 50 steps serves 20: y is for
    `step_table` the profiled change times the number of steps, and for `gamma` the residual's size
    relative to the first step's, which is the running product of MagCache's ratios (arXiv:2506.09045).
    """

    x: Points
    y: Points

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.x) != len(self.y):
            raise ConfigError(f"{len(self.x)} x values and {len(self.y)} y values; give as many", key="y")
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ConfigError("x must rise strictly", key="x")
        if any(value < 0 for value in self.y):
            raise ConfigError("y must not be negative", key="y")
        return self

    def __call__(self, value: float) -> float:
        """Map one raw value.

        Above the range the map grows in proportion to x, so that a signal beyond anything seen in
        the profile is never read as a small change; below it, it falls to the first y.
        """
        if value <= self.x[0]:
            return self.y[0]
        if value >= self.x[-1]:
            return self.y[-1] * (value / self.x[-1] if self.x[-1] > 0 else 1.0)
        i = bisect_right(self.x, value)
        x0, x1, y0, y1 = self.x[i - 1], self.x[i], self.y[i - 1], self.y[i]
        return y0 + (y1 - y0) * (value - x0) / (x1 - x0)


class Polynomial(Document):
    """A map as TeaCache publishes it (arXiv:2411.19108): coefficients, the highest power first.

    It may be negative, as published, and the estimate then falls.
    """

    polynomial: Coefficients

    def __call__(self, value: float) -> float:
        """Map one raw value, by Horner's rule."""
        total = 0.0
        for coefficient in self.polynomial:
            total = total * value + coefficient
        return total


def _form(value: object) -> str:
    given = isinstance(value, Polynomial) or (isinstance(value, Mapping) and "polynomial" in value)
    return "coefficients" if given else "points"


SignalMap = Annotated[
    Annotated[Calibration, Tag("points")] | Annotated[Polynomial, Tag("coefficients")], Discriminator(_form)
]
