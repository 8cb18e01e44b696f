"""`autotune search`: tune an experiment, resume it, or say what it would do."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import Json, Overrides, progress, say
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.store import RunFolder
from xslim.errors import ConfigError

if TYPE_CHECKING:
    from autotune.search.executor import Executor
    from autotune.search.tracker import Tracker

MISSED, INTERRUPTED = 1, 75


def search(
    experiment: Annotated[Path, typer.Argument(help="experiment YAML")],
    out: Annotated[Path | None, typer.Option(help="output folder [default: runs/<name>]")] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the search in the folder")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, run nothing")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster; a local one is started otherwise")
    ] = None,
    as_json: Json = False,
) -> int:
    """Search for presets; export those that hold their bounds on held-out cases."""
    loaded = load_experiment(experiment, overrides or ())
    space = loaded.space(experiment)
    folder = RunFolder(out or Path("runs") / loaded.name)
    workers = loaded.executor.workers or _default_workers()
    threads = _threads(workers) if ray_address is None else None

    from autotune.search.run import SearchRun, evaluator_spec

    spec = evaluator_spec(loaded, folder.path, threads)
    again = _resume_command(experiment, folder.path, overrides or (), ray_address)
    if dry_run:
        _describe(loaded, folder.path, workers, as_json)
        return 0
    folder.acquire()
    try:
        folder.claim(loaded, space.to_data(), resume)
        run = SearchRun(
            loaded,
            space,
            folder,
            _executor(loaded, workers, ray_address, threads),
            spec,
            _tracker(loaded, folder.path),
            on_phase=say,
            on_progress=progress(loaded.search.trials),
        )
        outcome = run.run()
    except Exception as error:
        if not isinstance(error, ConfigError) and (folder.path / "study.db").exists():
            say(f"the run broke; what was measured is kept in {folder.path}; resume with: {again}")
        raise
    finally:
        folder.release()
    if outcome.interrupted:
        say(f"interrupted; resume with: {again}")
        return INTERRUPTED
    return _present(outcome.summary, folder.path, as_json)


def _present(summary: dict[str, Any], folder: Path, as_json: bool) -> int:
    from autotune.cli.show import print_summary

    if as_json:
        json.dump(summary, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_summary(summary, folder)
    for dropped in summary["dropped"]:
        missed = ", ".join(f"{name} = {value:.4g}" for name, value in dropped["missed"].items())
        say(f"dropped trial {dropped['trial']}: misses its bound on held-out cases ({missed})")
    if not summary["front"]:
        say("no preset holds its bounds on held-out cases")
        return MISSED
    return 0


def _resume_command(experiment: Path, folder: Path, overrides: Sequence[str], address: str | None) -> str:
    """The command that goes on with this search, with the settings it was started with."""
    words = ["autotune", "search", str(experiment), "--out", str(folder), "--resume"]
    words += [word for override in overrides for word in ("--set", override)]
    words += [] if address is None else ["--ray-address", address]
    return shlex.join(words)


def _default_workers() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _threads(workers: int) -> int:
    """CPU threads of each worker on this machine."""
    import os

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // workers)


def _executor(experiment: Experiment, workers: int, address: str | None, threads: int | None) -> Executor:
    if experiment.executor.kind == "local" and address is None:
        from autotune.search.executor import LocalExecutor

        return LocalExecutor()
    import torch

    from autotune.search.ray_executor import RayExecutor

    gpus = 1 if torch.cuda.is_available() else 0
    return RayExecutor(workers, address=address, threads_per_worker=threads, gpus_per_worker=gpus)


def _tracker(experiment: Experiment, folder: Path) -> Tracker:
    if experiment.tracking.kind == "none":
        from autotune.search.tracker import NullTracker

        return NullTracker()
    import os

    from autotune.search.mlflow_tracker import MLflowTracker

    return MLflowTracker(os.environ.get("MLFLOW_TRACKING_URI"), folder, experiment.name)


def _describe(experiment: Experiment, folder: Path, workers: int, as_json: bool) -> None:
    images = experiment.search.trials * experiment.cases.search
    certified = (experiment.search.certify + 1) * experiment.cases.holdout
    plan = {
        "experiment": experiment.name,
        "out": str(folder),
        "trials": experiment.search.trials,
        "workers": workers,
        "executor": experiment.executor.kind,
        "images": images + certified,
        "objectives": list(experiment.objectives),
    }
    if as_json:
        json.dump(plan, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    for key, value in plan.items():
        typer.echo(f"{key:12} {value}")
