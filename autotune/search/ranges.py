"""Ranges: what one key of a search space may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document

SPREAD = 4  # values that stand for a range of whole numbers


def _check_ends(low: float, high: float, log: bool) -> None:
    if low > high or (log and low <= 0):
        raise ConfigError(f"low {low:g}, high {high:g}: low <= high, and above 0 with log", key="low")


class FloatRange(Document):
    """A float between low and high."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_ends(self.low, self.high, self.log)
        return self


class IntRange(Document):
    """A whole number between low and high."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_ends(self.low, self.high, self.log)
        return self


class Choice(Document):
    """One of some values; a value may be a mapping or a list."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]

    @property
    def encoded(self) -> tuple[str, ...]:
        """The choices as Optuna stores them: compact JSON."""
        return tuple(json.dumps(choice, sort_keys=True) for choice in self.choices)


Range = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


def whole_numbers(searched: FloatRange | IntRange | Choice) -> Sequence[int]:
    """The whole numbers that a key may be."""
    if isinstance(searched, IntRange):
        return range(searched.low, searched.high + 1)
    return [c for c in getattr(searched, "choices", ()) if isinstance(c, int)]


def spread_of(values: Sequence[int]) -> list[int]:
    """Both ends and some in between."""
    if len(values) <= SPREAD:
        return list(values)
    return [values[round(i * (len(values) - 1) / (SPREAD - 1))] for i in range(SPREAD)]


def middle_of(searched: FloatRange | IntRange | Choice) -> Any:
    """A value inside: the first choice, or the middle, by a log range's own scale."""
    if isinstance(searched, Choice):
        return searched.choices[0]
    if isinstance(searched, IntRange):
        return (searched.low + searched.high) // 2
    return (searched.low * searched.high) ** 0.5 if searched.log else (searched.low + searched.high) / 2


def extremes_of(searched: FloatRange | IntRange | Choice) -> tuple[Any, ...]:
    """All choices, or both ends."""
    return searched.choices if isinstance(searched, Choice) else (searched.low, searched.high)
