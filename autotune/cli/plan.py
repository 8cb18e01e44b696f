"""`autotune search --dry-run`: the plan of a search, as text or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from autotune.cli.common import say
from autotune.search.experiment import Experiment
from autotune.search.plan import Plan, make_plan


def show_plan(experiment: Experiment, folder: Path, workers: int, threads: int, as_json: bool) -> None:
    """Print what a search would do.

    Raises:
        ConfigError: the experiment does not fit its model.
    """
    plan = make_plan(experiment, workers, threads)
    if as_json:
        json.dump(_data(plan, experiment, folder), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        for key, value in _lines(plan, experiment, folder):
            typer.echo(f"{key:12} {value}")
    for absent in plan.to_provide:
        say(f"not on this machine: {absent}")


def _data(plan: Plan, experiment: Experiment, folder: Path) -> dict[str, Any]:
    cases = experiment.cases
    return {
        **plan.to_data(),
        "model": experiment.model.path,
        "out": str(folder),
        "cases": {name: getattr(cases, name) for name in ("search", "holdout", "batch", "sensitivity")},
        "trials": experiment.search.trials,
        "executor": experiment.executor.kind,
        "images": plan.draws.total,
        "objectives": list(experiment.objectives),
        "bounds": {name: bound.to_data() for name, bound in experiment.bounds.items()},
    }


def _lines(plan: Plan, experiment: Experiment, folder: Path) -> list[tuple[str, str]]:
    cases, drawn, estimate, unit = experiment.cases, plan.draws, plan.estimate, plan.unit
    uncached = drawn.serial + drawn.uncached
    lines = [
        ("experiment", plan.experiment),
        ("model", experiment.model.path),
        ("request", plan.request),
        ("out", str(folder)),
        ("workers", f"{plan.workers} ({experiment.executor.kind})"),
        ("prompts", str(plan.prompts)),
        ("cases", f"{cases.search} search, {cases.holdout} held-out"),
        ("trials", str(experiment.search.trials)),
        ("objectives", ", ".join(experiment.objectives)),
        (
            f"{unit}s",
            f"{drawn.total:,} at most: {uncached:,} uncached, {drawn.cached:,} cached; "
            f"{plan.busy_draws.total:,} on busy workers",
        ),
        ("calls", f"{plan.transformer_calls:,} of the transformer, {plan.calls_per_image} for each {unit}"),
    ]
    if plan.tflop_per_image is not None:
        lines.append(("compute", f"{_number(plan.tflop_per_image)} TFLOP for an uncached {unit}, counted"))
    if estimate is None:
        return [*lines, ("estimate", "none for this model; give --set model.seconds_per_image=S for one")]
    least = "at least " if estimate.at_least else ""
    hours = f"{least}{_number(estimate.worker_hours)} {estimate.worker} hours, {_number(estimate.wall_hours)}"
    hours += f" in all, {_number(estimate.busy_wall_hours)} on busy workers"
    lines.append(("estimate", f"{hours}; {_number(estimate.seconds_per_image)} s for an uncached {unit}"))
    return [*lines, *(("assumed", sentence) for sentence in estimate.assumed)]


def _number(value: float) -> str:
    """Three digits and thousands."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
