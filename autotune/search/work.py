"""A candidate that is being measured, batch by batch, and the row that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import optuna

from autotune.scoring.measurement import Measurement
from autotune.scoring.sampling import Sampling
from autotune.search.objective import log_metric
from autotune.search.parts import Job, joined
from autotune.search.trial_row import SAMPLER, TrialRow
from xslim.policy.policy import Policy

Asked = tuple[optuna.Trial, str, dict[str, Any]]


@dataclass
class Work:
    """A candidate that is being measured, and the trials that turned out to be the same one."""

    asked: Asked
    policy: Policy
    sampling: Sampling
    parts: list[Job]
    found: dict[int, Measurement] = field(default_factory=dict)
    others: list[Asked] = field(default_factory=list)

    @property
    def measured(self) -> Measurement:
        """What is in, in the order of the cases."""
        return joined([self.found[i] for i in sorted(self.found)])

    @property
    def whole(self) -> bool:
        """Whether all cases are in."""
        return len(self.found) == len(self.parts)

    def errors(self, metric: str) -> list[float]:
        """Logarithms of a metric as an error, case by case; none where it is not measured per case."""
        values = self.measured.quality.rows.get(metric, ())
        return [round(log_metric(metric, float(value)), 6) for value in values]

    def row(self, scalars: Mapping[str, float], metrics: Set[str]) -> TrialRow:
        """What is kept of it.

        Args:
            scalars: of what is measured.
            metrics: whose errors are kept case by case.
        """
        trial, family, params = self.asked
        quality = self.measured.quality
        errors = {name: self.errors(name) for name in sorted(metrics)}
        return TrialRow(
            trial=trial.number,
            family=family,
            params=params,
            policy=self.policy.to_data(),
            sampling=self.sampling.to_data(),
            scalars=dict(scalars),
            actions=quality.actions,
            trace_sha256=quality.trace_sha256,
            wall_s=quality.wall_s,
            cases=len(quality.cases),
            errors={name: values for name, values in errors.items() if values},
            source=str(trial.user_attrs.get("source", SAMPLER)),
            neighbour_of=trial.user_attrs.get("neighbour_of"),
        )
