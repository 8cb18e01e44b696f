"""How far a search is, as one plain value: what people see while it runs, and what `status.json` holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from autotune.search.experiment import Experiment
from autotune.search.objective import Bound, violations
from autotune.search.trial_row import TrialRow

FILE, VERSION = "status.json", 1
BOUNDS = "bounds"  # what the experiment's own bounds are called beside its tiers
Kind = Literal["speedup", "compute_fraction"]


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial that holds some bounds on the search cases.

    Attributes:
        trial: its number.
        value: its speedup; where nothing is timed, its share of the uncached compute.
        kind: which of the two.
    """

    trial: int
    value: float
    kind: Kind

    def __str__(self) -> str:
        return f"{self.value:.2f}x" if self.kind == "speedup" else f"{self.value:.3f} of the compute"


def best_at_bounds(
    rows: Sequence[TrialRow],
    tiers: Mapping[str, Mapping[str, Bound]],
    bounds: Mapping[str, Bound],
) -> dict[str, Best | None]:
    """Return the best trial at each tier's bounds, and at the experiment's; None where none holds them.

    The fastest, or where a row has no speedup, the one that computes least.
    """
    groups = {BOUNDS: bounds, **tiers} if bounds else dict(tiers)
    timed = bool(rows) and all("speedup" in row.scalars for row in rows)
    found: dict[str, Best | None] = {}
    for name, limits in groups.items():
        holding = [row for row in rows if all(v <= 0 for v in violations(limits, row.scalars).values())]
        found[name] = _best(holding, timed)
    return found


def _best(rows: Sequence[TrialRow], timed: bool) -> Best | None:
    if not rows:
        return None
    if timed:
        fastest = max(rows, key=lambda row: row.scalars["speedup"])
        return Best(fastest.trial, fastest.scalars["speedup"], "speedup")
    least = min(rows, key=lambda row: row.scalars["compute_fraction"])
    return Best(least.trial, least.scalars["compute_fraction"], "compute_fraction")


@dataclass(frozen=True, slots=True)
class Trials:
    """What the trials have brought so far.

    Attributes:
        done: told COMPLETE or PRUNED.
        failed: told FAIL.
        repeated: of those done, results taken over from an equal trial.
        front: feasible trials that no other one beats.
        hypervolume: of the front.
        best: tier or `bounds` -> the best trial that holds them.
        images: pictures or clips drawn on the search cases.
    """

    done: int = 0
    failed: int = 0
    repeated: int = 0
    front: int = 0
    hypervolume: float = 0.0
    best: Mapping[str, Best | None] = field(default_factory=dict)
    images: int = 0

    def metrics(self) -> dict[str, float]:
        """Return curves: `hypervolume`, `front`, and `best_speedup/<tier>` or `best_compute/<tier>`."""
        found = {"hypervolume": self.hypervolume, "front": float(self.front)}
        for name, best in self.best.items():
            if best is not None:
                kind = "best_speedup" if best.kind == "speedup" else "best_compute"
                found[f"{kind}/{name}"] = best.value
        return found


@dataclass(frozen=True, slots=True)
class Workers:
    """Workers by what they do.

    Attributes:
        busy: have a task.
        idle: wait for one, or start.
        dead: asked for and given up.
    """

    busy: int = 0
    idle: int = 0
    dead: int = 0

    @classmethod
    def counted(cls, asked: int, slots: int, flying: int) -> Self:
        """Count them from what an executor tells.

        Args:
            asked: workers of the first hour.
            slots: workers that are left.
            flying: tasks that were submitted and are not back.
        """
        busy = min(flying, slots)
        return cls(busy, slots - busy, max(0, asked - slots))


@dataclass(frozen=True, slots=True)
class Status:
    """A search at one moment.

    Attributes:
        experiment: its name.
        phase: what is being done, such as `certifying 3/10`.
        wanted: trials asked for.
        running: tasks in flight.
        trials: what came of the trials.
        workers: by what they do.
        gpu: whether workers have GPUs; tells what a worker-second is.
        worker_seconds: that workers were busy, in this run and in those that it resumes.
        elapsed_s: since the search was started or resumed.
        eta_s: until the last trial is in; None before a trial is in, and after the last one.
    """

    experiment: str
    phase: str
    wanted: int
    running: int = 0
    trials: Trials = Trials()
    workers: Workers = Workers()
    gpu: bool = False
    worker_seconds: float = 0.0
    elapsed_s: float = 0.0
    eta_s: float | None = None

    def with_eta(self, before: int, searched_s: float) -> Status:
        """Estimate how long the trials that are left take, from the pace of this run.

        Args:
            before: trials that were done when this run began to search.
            searched_s: seconds since then.
        """
        done, left = self.trials.done - before, self.wanted - self.trials.done
        eta = searched_s / done * left if done > 0 and left > 0 else None
        return replace(self, eta_s=eta)

    def to_json(self) -> str:
        """Return the content of `status.json`."""
        return json.dumps({"schema_version": VERSION, **asdict(self)})

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Build a status from what `to_json` wrote.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """
        if data["schema_version"] != VERSION:
            raise ValueError("another version")
        plain = {key: value for key, value in data.items() if key != "schema_version"}
        trials = dict(plain.pop("trials"))
        best = {name: None if b is None else Best(**b) for name, b in dict(trials.pop("best")).items()}
        return cls(trials=Trials(best=best, **trials), workers=Workers(**plain.pop("workers")), **plain)


def read_status(folder: Path) -> Status | None:
    """Read `status.json`; None where there is none, or one that this version cannot read."""
    try:
        return Status.from_data(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def trials_so_far(
    experiment: Experiment,
    rows: Sequence[TrialRow],
    counts: Mapping[str, int],
    front: Sequence[TrialRow],
    hypervolume: float,
    images: int,
) -> Trials:
    """Sum up a search.

    Args:
        experiment: what is searched.
        rows: everything measured.
        counts: trials by state: `complete`, `pruned`, `failed`.
        front: rows of the feasible front.
        hypervolume: of the front.
        images: pictures or clips drawn for the trials.
    """
    whole = [row for row in rows if row.cases >= experiment.cases.search]  # the others were beaten early
    return Trials(
        done=counts["complete"] + counts["pruned"],
        failed=counts["failed"],
        repeated=sum(row.duplicate_of is not None for row in rows),
        front=len(front),
        hypervolume=hypervolume,
        best=best_at_bounds(whole, experiment.tiers, experiment.bounds),
        images=images,
    )


def line(status: Status) -> str:
    """The status in one line, such as `12/24 trials, hypervolume 0.2176, fast 2.10x, ETA 3 min`."""
    trials = status.trials
    parts = [f"{trials.done}/{status.wanted} trials", f"hypervolume {trials.hypervolume:.4f}"]
    parts += [f"{name} {'none' if best is None else best}" for name, best in trials.best.items()]
    parts += [f"{trials.failed} failed"] if trials.failed else []
    parts += [f"{status.workers.dead} workers dead"] if status.workers.dead else []
    parts += [] if status.eta_s is None else [f"ETA {duration(status.eta_s)}"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A duration for people: `45 s`, `3 min`, `2 h 05 min`, `3 d 04 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"
