"""Trackers: where a search is shown to people. Only the driver writes, after the results are durable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Logs one search. A tracker never raises: losing it must not stop a search."""

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open the parent run, or go on with it when the search is resumed."""
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

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log stepped metrics on the parent, such as the hypervolume after so many trials."""
        ...

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Attach files or folders to the parent; the key is the folder inside the artifacts."""
        ...

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Close the parent: `FINISHED`, `FAILED` or `KILLED`. Returns when all is written."""
        ...


class NullTracker:
    """Logs nothing."""

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Nothing."""

    def trial(
        self,
        number: int,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Nothing."""

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def artifacts(self, files: Mapping[str, Path]) -> None:
        """Nothing."""

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Nothing."""
