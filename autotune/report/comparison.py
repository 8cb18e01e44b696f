"""The comparison: content of `comparison.json`, as the report reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from xslim.errors import ConfigError
from xslim.policy.document import Document

FILE, VERSION = "comparison.json", 1
OURS, FEWER_STEPS = "autotune", "fewer-steps"
Number = Annotated[float, Field(strict=False)]
Interval = Annotated[tuple[Number, Number], Field(strict=False)]


class Part(Document):
    """A part of the file; keys that a report does not show are left alone."""

    model_config = ConfigDict(extra="ignore")


class Worst(Part):
    """The worst case of a metric."""

    value: Number
    prompt: int | str
    seed: int


class Row(Part):
    """One point of one method.

    Attributes:
        id: of the row and its pictures.
        method: `autotune`, `fewer-steps` or a recipe's name.
        speedup: measured; None where nothing was timed.
        actions: letters of the first sample.
        memory: bytes held.
        preset: file of it.
    """

    id: str
    method: str
    title: str
    source: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    speedup: Number | None = None
    compute_fraction: Number
    metrics: dict[str, Number | None] = Field(default_factory=dict)
    ci95: dict[str, Interval | None] = Field(default_factory=dict)
    actions: str = ""
    memory: Number | None = None
    preset: str | None = None
    worst: dict[str, Worst] = Field(default_factory=dict)
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @property
    def scalars(self) -> dict[str, float]:
        """Everything that was measured."""
        costs = {"speedup": self.speedup, "compute_fraction": self.compute_fraction, "memory": self.memory}
        return {name: value for name, value in {**costs, **self.metrics}.items() if value is not None}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals, of what has one."""
        return {name: ends for name, ends in self.ci95.items() if ends is not None}


class NotRun(Part):
    """What was left out, and why."""

    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    reason: str


class Comparison(Part):
    """Content of `comparison.json`."""

    schema_version: int
    experiment: str
    partial: bool = False
    device: str = ""
    command: str = ""
    nets: dict[str, str] = Field(default_factory=dict)
    cases: dict[str, Any] = Field(default_factory=dict)
    budgets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: Annotated[tuple[Row, ...], Field(strict=False)] = ()
    not_run: Annotated[tuple[NotRun, ...], Field(strict=False)] = ()


def read_comparison(folder: Path) -> Comparison | None:
    """Read the comparison of a folder; None where there is none.

    Raises:
        ConfigError: it is unreadable, of another version, or a value is at fault.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise ConfigError("unreadable; run `autotune compare` again", source=str(path)) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != VERSION:
        raise ConfigError(
            f"got {version!r}, allowed is {VERSION}; run `autotune compare` again",
            key="schema_version",
            source=str(path),
        )
    return Comparison.parse(data, source=str(path))
