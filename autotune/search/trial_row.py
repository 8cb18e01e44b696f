"""TrialRow: one measured trial, as a line of the results holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

SAMPLER = "sampler"  # what asked for a trial when nothing else did


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One measured trial, as it stands in `results.jsonl`.

    Attributes:
        trial: Optuna's number.
        family: family of the search space.
        params: the point, by dotted policy key.
        policy: the policy as data.
        sampling: as data; empty for the reference configuration's.
        scalars: what `Scorer.scalars` gave.
        actions: letters of the first sample.
        trace_sha256: hash of all samples' letters.
        duplicate_of: trial whose result was taken over, or None.
        wall_s: seconds of drawing.
        cases: that were drawn; fewer than the search's when the candidate was beaten on them.
        errors: metric -> its logarithm as an error, case by case (`objective.log_metric`).
        source: what asked for it: `sampler`, `warm start`, `screening`, `neighbour`.
        neighbour_of: the trial whose surroundings it looks at, or None.
    """

    trial: int
    family: str
    params: dict[str, Any]
    policy: dict[str, Any]
    scalars: dict[str, float]
    actions: str
    trace_sha256: str
    duplicate_of: int | None = None
    wall_s: float = 0.0
    cases: int = 0
    errors: dict[str, list[float]] = field(default_factory=dict)
    source: str = SAMPLER
    neighbour_of: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)

    def copied(
        self, trial: int, family: str, params: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> TrialRow:
        """The row of another trial that turned out to be the same candidate.

        Args:
            trial: its number.
            family: of its point.
            params: its point.
            asked: `source` and `neighbour_of`, where it has them.
        """
        return replace(
            self,
            trial=trial,
            family=family,
            params=dict(params),
            duplicate_of=self.trial if self.duplicate_of is None else self.duplicate_of,
            wall_s=0.0,
            errors={},
            source=str(asked.get("source", SAMPLER)),
            neighbour_of=asked.get("neighbour_of"),
        )
