"""Sources: what a search has left in its folder, read once for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from autotune.compare.document import ComparisonDocument, read_document
from autotune.report.members import with_tiers
from autotune.scoring.profile import Profile
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.objective import HYPERVOLUME_REFERENCE, METRIC_NAMES, violations
from autotune.search.pareto import front
from autotune.search.store import RunFolder
from autotune.search.trial_row import TrialRow
from xslim.errors import ConfigError, XSlimError
from xslim.policy.preset import Preset, load_preset


@dataclass(frozen=True, slots=True)
class Member:
    """A preset, or of a search that still runs a trial on its front.

    Attributes:
        name: such as `front-00`.
        file: as `load_preset` takes it; empty where there is none yet.
        trial: its number.
        tiers: that chose it.
        scalars: on held-out cases; of a running search on its search cases.
        intervals: 95 %, where there are any.
        worst: metric -> value, prompt and seed of its worst case.
        actions: letters of the first sample.
        preset: as read; None where it is not there.
        bounds: what it was chosen for, in words.
    """

    name: str
    file: str
    trial: int
    scalars: Mapping[str, float]
    actions: str
    tiers: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    worst: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preset: Preset | None = None
    bounds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """A search as its folder holds it.

    Attributes:
        folder: where.
        summary: content of `summary.json`; None while the search is not finished.
        rows: trials so far.
        command: that starts the search.
        going: what is to be said of an unfinished search.
    """

    folder: Path
    summary: Mapping[str, Any] | None
    rows: tuple[TrialRow, ...]
    command: str
    going: str = ""

    @cached_property
    def comparison(self) -> ComparisonDocument | None:
        """The comparison with other methods, where one was made."""
        return read_document(self.folder)

    @cached_property
    def experiment(self) -> Experiment | None:
        """The experiment; None where another version wrote it."""
        try:
            return load_experiment(self.folder / "experiment.yaml")
        except ConfigError:
            return None

    @property
    def name(self) -> str:
        """The experiment's name."""
        if self.summary is not None:
            return str(self.summary["experiment"])
        return self.folder.name if self.experiment is None else self.experiment.name

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is minimised or maximised."""
        if self.summary is not None:
            return tuple(self.summary["objectives"])
        return () if self.experiment is None else tuple(self.experiment.objectives)

    @property
    def nets(self) -> Mapping[str, str]:
        """Metric -> how it is printed with its network."""
        if self.summary is not None:
            return dict(self.summary["nets"])
        if self.experiment is None:
            return {}
        from autotune.search.export import nets

        return nets(self.experiment, self.experiment.cases.search)

    @cached_property
    def profile(self) -> Profile | None:
        """The profile; None where there is none, or another version wrote it."""
        try:
            return Profile.from_json((self.folder / "profile.json").read_text())
        except (OSError, ValueError, KeyError, TypeError, XSlimError):
            return None

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The front, fastest first, and tiers that are not on it."""
        return tuple(_running_front(self) if self.summary is None else _certified(self, self.summary))

    def minimised(self, row: TrialRow) -> list[float]:
        """A trial's objectives, smaller is better."""
        return [-row.scalars[n] if METRIC_NAMES[n] else row.scalars[n] for n in self.objectives]

    @property
    def worst_point(self) -> list[float]:
        """Where the hypervolume begins."""
        return [HYPERVOLUME_REFERENCE[name] for name in self.objectives]

    def whole(self, row: TrialRow) -> bool:
        """Whether a trial was drawn on all search cases; the others were beaten on their first ones."""
        return row.cases >= self._cases

    @cached_property
    def _cases(self) -> int:
        return max((row.cases for row in self.rows), default=0)

    def counts_for_front(self, row: TrialRow) -> bool:
        """Whether a trial was drawn whole, is no repetition and holds the bounds."""
        bounds = {} if self.experiment is None else self.experiment.bounds
        fits = all(v <= 0 for v in violations(bounds, row.scalars).values())
        return fits and row.duplicate_of is None and self.whole(row)


def read_search(folder: Path, summary: Mapping[str, Any] | None, command: str, going: str = "") -> Search:
    """Read the folder of a search.

    Args:
        folder: of the search.
        summary: content of its `summary.json`; None while it has none.
        command: that starts the search.
        going: what is to be said of an unfinished one.

    Raises:
        ConfigError: there is nothing to report yet, or a file is at fault.
    """
    rows = tuple(RunFolder(folder).rows())
    if summary is None and not rows:
        raise ConfigError(f"{going or 'no trial is in'}; there is nothing to report yet", source=str(folder))
    return Search(folder, summary, rows, command, going)


def _running_front(search: Search) -> Iterator[Member]:
    rows = [row for row in search.rows if search.counts_for_front(row)]
    best = [rows[i] for i in front([search.minimised(row) for row in rows])]
    for row in sorted(best, key=lambda row: row.scalars["compute_fraction"]):
        yield Member(f"trial-{row.trial:04d}", "", row.trial, row.scalars, row.actions)


def _certified(search: Search, summary: Mapping[str, Any]) -> Iterator[Member]:
    for member, tiers in with_tiers(summary):
        yield _member(search, member, tiers)


def _member(search: Search, data: Mapping[str, Any], tiers: tuple[str, ...]) -> Member:
    path = search.folder / data["preset"]
    held = data["holdout"]
    preset = _preset(path)
    return Member(
        name=Path(data["preset"]).stem,
        file=str(path),
        trial=data["trial"],
        tiers=tiers,
        scalars={**{name: entry["value"] for name, entry in held.items()}, "memory": data["memory"]},
        intervals={name: tuple(entry["ci95"]) for name, entry in held.items() if "ci95" in entry},
        worst={name: entry["worst"] for name, entry in held.items() if "worst" in entry},
        actions=data["actions"],
        preset=preset,
        bounds=_bounds(search, tiers, preset),
    )


def _bounds(search: Search, tiers: tuple[str, ...], preset: Preset | None) -> dict[str, str]:
    """The experiment's bounds and those of the tiers, in words."""
    if search.experiment is None:
        limits = {} if preset is None else preset.quality.bounds
        return {f"bound on {name}": f"{value:g}" for name, value in limits.items()}
    groups = {"bound": search.experiment.bounds}
    groups |= {f"bound of {tier}": search.experiment.tiers.get(tier, {}) for tier in tiers}
    return {
        group: ", ".join(f"{n} {'≤' if b.min is None else '≥'} {b.limit:g}" for n, b in bounds.items())
        for group, bounds in groups.items()
        if bounds
    }


def _preset(path: Path) -> Preset | None:
    try:
        return load_preset(path)
    except XSlimError:
        return None
