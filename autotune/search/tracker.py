"""Trackers: where a search is shown to people. Only the driver writes, after the results are durable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CaseSet:
    """What a search measured on.

    Attributes:
        name: such as `dit-digits cases`.
        context: `search` or `holdout`.
        sha256: hash of the cases, as presets carry it.
        cases: how many.
        prompts: how many different ones.
        seed: they were drawn with.
    """

    name: str
    context: str
    sha256: str
    cases: int
    prompts: int
    seed: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A preset that may go into production.

    Attributes:
        name: of the registered model.
        file: the preset.
        tags: what was measured.
    """

    name: str
    file: Path
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Logs one search. A tracker never raises: losing it must not stop a search."""

    def start(
        self, name: str, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        """Open the parent run in an experiment, or go on with it when the search is resumed."""
        ...

    def datasets(self, sets: Sequence[CaseSet]) -> None:
        """Say on what the search measures."""
        ...

    def trial(
        self,
        number: int,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Log an evaluated trial as a child run; a number that was logged before is left alone."""
        ...

    def front(self, numbers: Sequence[int]) -> None:
        """Say which trials are on the front now."""
        ...

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log stepped metrics on the parent, such as the hypervolume after so many trials."""
        ...

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Attach files or folders to the parent; the key is the folder inside the artifacts."""
        ...

    def register(self, candidates: Sequence[Candidate]) -> None:
        """Offer presets for production."""
        ...

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Close the parent: `FINISHED`, `FAILED` or `KILLED`. Returns when all is written."""
        ...


class NullTracker:
    """Logs nothing."""

    def start(
        self, name: str, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        """Nothing."""

    def datasets(self, sets: Sequence[CaseSet]) -> None:
        """Nothing."""

    def trial(
        self,
        number: int,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Nothing."""

    def front(self, numbers: Sequence[int]) -> None:
        """Nothing."""

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Nothing."""

    def register(self, candidates: Sequence[Candidate]) -> None:
        """Nothing."""

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Nothing."""
