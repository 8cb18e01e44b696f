"""Certification: candidates on held-out cases; what misses its bounds is dropped, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.scoring.case import Case, cases_sha256
from autotune.scoring.fingerprint import code_sha256, code_versions, folder_sha256, model_sha256
from autotune.scoring.latency import speedup_ci95
from autotune.scoring.measurement import Measurement
from autotune.scoring.metrics import METRICS
from autotune.scoring.profile import Profile
from autotune.scoring.sampling import sampling_of
from autotune.scoring.statistics import mean_ci95, tail_ci95
from autotune.search.cliffs import cliffs
from autotune.search.dispatch import Dispatcher, RunBrokenError
from autotune.search.experiment import Experiment
from autotune.search.floors import Floors, floor_entry
from autotune.search.model import NOT_OF_THE_SPEC
from autotune.search.objective import LOWER_TAIL, METRIC_NAMES, METRIC_OF, UPPER_TAIL, Bound, violations
from autotune.search.pareto import spread
from autotune.search.parts import Job, PartStore, measure
from autotune.search.scorer import Scorer
from autotune.search.study import SearchLoop
from autotune.search.trial_row import TrialRow
from xslim.policy.policy import Policy

log = logging.getLogger(__name__)
TIER_CANDIDATES = 3  # per tier: the least compute that holds its bounds on the search cases


@dataclass(frozen=True, slots=True)
class Certified:
    """A candidate on the held-out cases.

    Attributes:
        row: its row in the search.
        scalars: as in the row, on the held-out cases.
        holdout: scalar -> {"value", "ci95"}.
        missed: bound -> value, of the bounds it misses; `speedup` when it is not above 1.
        measurement: everything measured.
    """

    row: TrialRow
    scalars: dict[str, float]
    holdout: dict[str, dict[str, Any]]
    missed: dict[str, float]
    measurement: Measurement


def candidates(loop: SearchLoop, experiment: Experiment) -> list[TrialRow]:
    """Choose what is certified: a spread of the front, and the fastest rows that hold each tier's bounds."""
    steep = cliffs(loop.rows, METRIC_OF[loop.screen.leading])
    for trial, beside in steep.items():
        log.warning("trial %d is not certified: trial %d beside it is far worse", trial, beside)
    best = [row for row in loop.best() if row.trial not in steep] or loop.best()
    chosen = [best[i] for i in spread([loop.minimised(row) for row in best], experiment.search.certify)]
    for bounds in experiment.tiers.values():
        distinct = [
            row
            for row in loop.rows
            if row.duplicate_of is None and row.cases >= len(loop.cases) and row.trial not in steep
        ]
        holding = [row for row in distinct if holds(bounds, row.scalars)]
        holding.sort(
            key=lambda row: row.scalars["compute_fraction"]
        )  # one short timing is noisy, this is not
        chosen += holding[:TIER_CANDIDATES]
    unique: dict[str, TrialRow] = {}
    for row in chosen:
        unique.setdefault(repr((row.policy, row.sampling)), row)
    return list(unique.values())


def holds(bounds: Mapping[str, Bound], scalars: Mapping[str, float]) -> bool:
    """Whether all bounds hold."""
    return all(v <= 0 for v in violations(bounds, scalars).values())


def certify(
    dispatcher: Dispatcher,
    rows: Sequence[TrialRow],
    experiment: Experiment,
    scorer: Scorer,
    floors: Floors,
    cases: tuple[Case, ...],
    folder: Path,
    stop: Callable[[], bool],
    tell: Callable[[str], None] = lambda line: None,
) -> list[Certified]:
    """Measure rows on the held-out cases; fastest first. When told to stop, what is in flight is finished.

    What was measured is kept in `folder`, so that a resumed search does not measure it again.

    Raises:
        RunBrokenError: every measurement failed.
    """
    found: list[Certified] = []
    rounds = experiment.search.certify_rounds
    jobs = [Job(Policy.parse(row.policy), cases, rounds, row, sampling_of(row.sampling)) for row in rows]
    store = PartStore(folder, measuring_context(experiment))
    for job, result in measure(dispatcher, jobs, experiment.cases.batch, store, stop):
        if isinstance(result, Measurement):
            found.append(_certified(job.tag, result, experiment, scorer, floors))
            speedup, fraction = (found[-1].scalars[name] for name in ("speedup", "compute_fraction"))
            tell(f"certified {len(found)}/{len(rows)}: {speedup:.2f}x, compute fraction {fraction:.3f}")
        else:
            log.warning("trial %d cannot be certified: %s", job.tag.trial, result)
    if rows and not found and not stop():
        raise RunBrokenError("no candidate could be certified; see the warnings above")
    return sorted(found, key=lambda c: (c.scalars["latency"], c.row.trial))


def measuring_context(experiment: Experiment) -> dict[str, Any]:
    """What a measurement depends on besides policy and cases."""
    model, folders = experiment.model, experiment.metrics.spec().folders()
    return {
        "model": model.model_dump(mode="json", exclude=NOT_OF_THE_SPEC),
        "model_sha256": model_sha256(model.path, model.revision),
        "nets_sha256": {folder: folder_sha256(Path(folder)) for folder in folders},
        "batch": experiment.cases.batch,
        "metrics": experiment.metrics.to_data(),
        "versions": {name: metric.version for name, metric in METRICS.items()},
        "code": {**code_versions(), "all": code_sha256()},
    }


def _certified(
    row: TrialRow, measured: Measurement, experiment: Experiment, scorer: Scorer, floors: Floors
) -> Certified:
    scalars = scorer.scalars(measured)
    if not row.scalars:  # with a corrector: never measured on search cases
        row = replace(row, actions=measured.quality.actions)
    broken = {name: scalars[name] for name, v in violations(experiment.bounds, scalars).items() if v > 0}
    if scalars["speedup"] <= 1:  # no preset is worth shipping that is not faster
        broken["speedup"] = scalars["speedup"]
    return Certified(row, scalars, with_intervals(scalars, measured, scorer, floors), broken, measured)


def with_intervals(
    scalars: Mapping[str, float], measured: Measurement, scorer: Scorer, floors: Floors
) -> dict[str, dict[str, Any]]:
    """Attach 95 % bootstrap intervals; what is counted and not sampled has one without width.

    Set metrics also get what two uncached sets give, and paired ones their worst case.
    """
    result: dict[str, dict[str, Any]] = {
        name: {"value": value, "ci95": [value, value]} for name, value in scalars.items()
    }
    for name, interval in scorer.set_intervals(measured.quality.features, scalars).items():
        result[name]["ci95"] = interval
        if name in floors:
            result[name]["two_uncached"] = floor_entry(floors[name])
    for name, values in measured.quality.rows.items():
        end = LOWER_TAIL if METRIC_NAMES[name] else UPPER_TAIL
        result[name]["ci95"] = list(mean_ci95(values)[1:])
        result[f"{name}_p{end}"]["ci95"] = list(tail_ci95(values, end)[1:])
        worst = int(np.argmin(values) if METRIC_NAMES[name] else np.argmax(values))
        case = measured.quality.cases[worst]
        result[name]["worst"] = {"value": float(values[worst]), "prompt": case.prompt, "seed": case.seed}
    if measured.latency is not None:
        low, high = speedup_ci95(measured.latency)
        result["speedup"]["ci95"] = [low, high]
        result["latency"]["ci95"] = [1 / high, 1 / low]
    return result


def evidence(
    holdout: Mapping[str, Mapping[str, Any]], measured: Measurement, cases: Sequence[Case], seed: int
) -> dict[str, Any]:
    """What a preset says of its held-out measurement."""
    found = {
        **{name: entry for name, entry in holdout.items() if name != "memory"},
        "cases": len(measured.quality.cases),
        "cases_seed": seed,
        "cases_sha256": cases_sha256(cases),
        "held_bytes": measured.quality.held_bytes,
    }
    if measured.latency is not None:
        found["peak_bytes"] = measured.latency.peak_bytes
    if measured.latency is not None and measured.latency.gpu:
        found["gpu"] = measured.latency.gpu
    return found


def profile_note(profile: Profile) -> dict[str, float]:
    """How well each signal follows the true change, for provenance."""
    return {name: round(value, 4) for name, value in profile.fit.items() if np.isfinite(value)}
