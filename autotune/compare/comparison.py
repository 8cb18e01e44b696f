"""What a comparison has found: rows that grow one by one, and the content of `comparison.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.compare.document import VERSION, read_data
from autotune.compare.entrants import Entrant, NotRun
from autotune.compare.equal import tables
from autotune.compare.recipe import OWN
from autotune.compare.taken import Taken, Timing, untimed
from autotune.scoring.case import Case, cases_sha256
from autotune.scoring.measurement import Measurement
from autotune.search.certify import measuring_context, with_intervals
from autotune.search.experiment import Experiment
from autotune.search.export import nets
from autotune.search.floors import uncached_floors
from autotune.search.numbers import rounded
from autotune.search.objective import METRIC_OF
from autotune.search.scorer import Scorer
from xslim.runtime.macs import COUNTING

NO_METRICS = ("speedup", "latency", "compute_fraction", "memory")


@dataclass
class Comparison:
    """Rows of one comparison.

    Attributes:
        experiment: what is compared on.
        cases: held-out ones, and their seed.
        seed: of the cases.
        baseline: the uncached model.
        scorer: forms the scalars.
        summary: of the search whose presets take part; empty without one.
        command: that reproduces it.
        taken: of methods that are not measured here.
    """

    experiment: Experiment
    cases: tuple[Case, ...]
    seed: int
    baseline: Measurement
    scorer: Scorer
    summary: Mapping[str, Any]
    command: str
    taken: Taken = field(default_factory=Taken)
    rows: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, Any]] = field(default_factory=list)
    _costs: dict[str, dict[str, float]] = field(default_factory=dict)
    _learning: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._floors = uncached_floors(self.baseline, self.scorer)

    def add(self, entrant: Entrant, measured: Measurement, notes: Sequence[str] = ()) -> dict[str, Any]:
        """Add a measured point; return its row. A part that another machine timed gives no speedup."""
        scalars = self.scorer.scalars(measured)
        entries = with_intervals(scalars, measured, self.scorer, self._floors)
        timing = () if measured.latency is None else measured.latency.notes
        row = {
            "id": entrant.id,
            "method": entrant.method,
            "title": entrant.title,
            "source": entrant.source,
            "config": entrant.config,
            "speedup": scalars.get("speedup"),
            "compute_fraction": scalars["compute_fraction"],
            "metrics": {name: value for name, value in scalars.items() if name not in NO_METRICS},
            "ci95": {
                name: entry["ci95"]
                for name, entry in entries.items()
                if name == "speedup" or METRIC_OF.get(name) == name
            },
            "actions": measured.quality.actions,
            "memory": scalars["memory"],
            "preset": entrant.preset,
            "worst": {name: entry["worst"] for name, entry in entries.items() if "worst" in entry},
            "notes": [*notes, *timing],
        }
        here, there = (Timing.of(one.environment, 0) for one in (self.baseline, measured))
        self.rows.append(dict(rounded(row if here == there else untimed(row))))
        self._count(entrant.method, measured)
        return self.rows[-1]

    def _count(self, method: str, measured: Measurement) -> None:
        spent = self._costs.setdefault(method, {"points": 0, "images": 0, "wall_s": 0.0})
        spent["points"] += 1
        spent["images"] += len(measured.quality.cases)
        spent["wall_s"] += measured.quality.wall_s

    def spend(self, method: str, seconds: float) -> None:
        """Note what a method's learning took."""
        self._learning[method] = seconds

    def leave_out(self, point: NotRun) -> None:
        """Note a point that cannot be measured."""
        self.not_run.append({"method": point.method, "config": point.config, "reason": point.reason})

    def content(self, partial: bool) -> dict[str, Any]:
        """What `comparison.json` holds."""
        scalars = self.scorer.scalars(self.baseline)
        settings, rows = self.experiment.compare, [*self.rows, *self.taken.rows]
        latency = self.baseline.latency if settings.rounds else None
        return {
            "schema_version": VERSION,
            "experiment": self.experiment.name,
            **facts(self.experiment, self.cases, self.seed),
            "partial": partial,
            "device": self.baseline.environment.get("device", "unknown"),
            "environment": self.baseline.environment,
            "command": self.command,
            "budgets": rounded(self._budgets()),
            "baseline": rounded(
                {
                    "latency_s": None if latency is None else latency.baseline_s,
                    "metrics": {k: v for k, v in scalars.items() if METRIC_OF.get(k) == k},
                }
            ),
            "rows": sorted(rows, key=lambda row: (row["method"] != OWN, row["method"], row["id"])),
            "not_run": [*self.not_run, *self.taken.not_run],
            "taken": list(self.taken.sources),
            "tables": rounded(tables(rows)),
        }

    def _budgets(self) -> dict[str, Any]:
        """What each method was given: its sweep here; for our presets the search before it, too."""
        found: dict[str, Any] = {method: dict(spent) for method, spent in self._costs.items()}
        for method, seconds in self._learning.items():
            found.setdefault(method, {})["learning_s"] = seconds
        if self.summary:
            trials = self.summary["trials"]
            search = {
                "trials": trials["complete"] + trials["pruned"],
                "images": self.summary["images_generated"],
                "wall_s": self.summary["wall_s"],
            }
            found.setdefault(OWN, {})["search"] = search
        return {**found, **self.taken.budgets}


def facts(experiment: Experiment, cases: tuple[Case, ...], seed: int) -> dict[str, Any]:
    """What of `comparison.json` is known before anything is measured: of the request, networks and cases."""
    context = measuring_context(experiment)
    return {
        "model": experiment.model.path,
        "num_steps": experiment.model.num_steps,
        "counting": COUNTING,
        "request": {name: value for name, value in context.items() if name != "code"},
        "nets": nets(experiment, len(cases)),
        "cases": {
            "quality": len(cases),
            "timed": experiment.compare.rounds * experiment.cases.batch,
            "seed": seed,
            "sha256": cases_sha256(cases),
        },
    }


def read_comparison(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's `comparison.json`, None when there is none.

    Raises:
        ConfigError: it is unreadable, of another version, or a value is at fault.
    """
    return read_data(folder)
