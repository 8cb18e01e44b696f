"""The content of `comparison.json`, checked: what the report and a resumed comparison read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from xslim.errors import ConfigError
from xslim.policy.document import Document

FILE, VERSION = "comparison.json", 1
AGAIN = "delete it and run `autotune compare` again"
Count = Annotated[int, Field(strict=False, ge=0)]
Number = Annotated[float, Field(strict=False)]
Known = Number | None  # None where it was not measured, is not finite or not reached
Interval = Annotated[tuple[Known, Known], Field(strict=False)]


class Part(Document):
    """A part of the file; keys that nobody reads are left alone."""

    model_config = ConfigDict(extra="ignore")


class Worst(Part):
    """The worst case of a metric."""

    value: Known
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
        worst: metric -> its worst case.
    """

    id: str
    method: str
    title: str
    source: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    speedup: Known = None
    compute_fraction: Number
    metrics: dict[str, Known] = Field(default_factory=dict)
    ci95: dict[str, Interval | None] = Field(default_factory=dict)
    actions: str = ""
    memory: Known = None
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
        found = {}
        for name, ends in self.ci95.items():
            if ends is not None and ends[0] is not None and ends[1] is not None:
                found[name] = (ends[0], ends[1])
        return found


class NotRun(Part):
    """What was left out, and why."""

    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    reason: str


class Searched(Part):
    """What a search drew before its presets took part."""

    trials: Count
    images: Count
    wall_s: Number


class Budget(Part):
    """What a method was given: the points of its sweep and its learning; for our presets the search, too."""

    points: Count = 0
    images: Count = 0
    wall_s: Number = 0.0
    learning_s: Known = None
    search: Searched | None = None


class AtQuality(Part):
    """Methods at an LPIPS: the one that fewer steps reach with a share of the steps.

    Attributes:
        lpips: at which they are compared.
        share: of the steps.
        cost: method -> compute fraction, or latency over the uncached one; None where it never is so good.
    """

    lpips: Number
    share: Number
    cost: dict[str, Known] = Field(default_factory=dict)


class AtSpeed(Part):
    """Methods at a measured speedup: method -> LPIPS, None where it is not so fast."""

    speedup: Number
    lpips: dict[str, Known] = Field(default_factory=dict)


class Lead(Part):
    """How far our presets are ahead at equal LPIPS: ratios of costs, above 1 where they are cheaper."""

    at: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    reached: Count = 0
    median_over_best: Known = None
    least_over_best: Known = None
    median_over_fewer_steps: Known = None


class Tables(Part):
    """The tables at equal quality and at equal speed, as `autotune.compare.equal.tables` makes them."""

    hypervolume: dict[str, Known] = Field(default_factory=dict)
    compute_fraction_at_lpips: Annotated[tuple[AtQuality, ...], Field(strict=False)] = ()
    compute_fraction_lead: Lead = Field(default_factory=Lead)
    latency_at_lpips: Annotated[tuple[AtQuality, ...], Field(strict=False)] = ()
    latency_lead: Lead = Field(default_factory=Lead)
    lpips_at_speedup: Annotated[tuple[AtSpeed, ...], Field(strict=False)] = ()


class Cases(Part):
    """The held-out cases that all were measured on."""

    quality: Count
    timed: Count = 0
    seed: int
    sha256: str


class Source(Part):
    """Where rows come from that were taken over from an earlier comparison."""

    methods: Annotated[tuple[str, ...], Field(strict=False)]
    command: str
    environment: dict[str, str] = Field(default_factory=dict)
    timed: Count = 0


class ComparisonDocument(Part):
    """Content of `comparison.json`."""

    schema_version: int
    experiment: str
    num_steps: Annotated[int, Field(ge=1)]
    partial: bool = False
    device: str = ""
    command: str = ""
    nets: dict[str, str] = Field(default_factory=dict)
    cases: Cases
    budgets: dict[str, Budget] = Field(default_factory=dict)
    rows: Annotated[tuple[Row, ...], Field(strict=False)] = ()
    not_run: Annotated[tuple[NotRun, ...], Field(strict=False)] = ()
    taken: Annotated[tuple[Source, ...], Field(strict=False)] = ()
    tables: Tables = Field(default_factory=Tables)


def read_document(folder: Path) -> ComparisonDocument | None:
    """Read the comparison of a folder; None where there is none.

    Raises:
        ConfigError: it is unreadable, of another version, or a value is at fault.
    """
    data = read_data(folder)
    return None if data is None else _checked(data, folder / FILE)


def read_data(folder: Path, file: str = FILE) -> dict[str, Any] | None:
    """Read the comparison of a folder as it was written; None where there is none.

    Raises:
        ConfigError: as `read_document`.
    """
    path = folder / file
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise ConfigError(f"unreadable; {AGAIN}", source=str(path)) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise ConfigError(
            f"got {version!r}, allowed is {VERSION}; {'update autotune, or ' if newer else ''}{AGAIN}",
            key="schema_version",
            source=str(path),
        )
    _checked(data, path)
    found: dict[str, Any] = data
    return found


def _checked(data: dict[str, Any], path: Path) -> ComparisonDocument:
    try:
        return ComparisonDocument.parse(data)
    except ConfigError as error:
        raise ConfigError(f"{error.problem}; {AGAIN}", key=error.key, source=str(path)) from None
