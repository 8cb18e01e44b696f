"""`autotune search`: tune an experiment, resume it, or say what it would do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import Json, Overrides, say
from autotune.cli.live import watching
from autotune.cli.report import report_or_warn
from autotune.cli.unfinished import keep_start, resume_command
from autotune.cli.workers import executor_for, threads_each, worker_count
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.storage import DiskFullError, disk_full
from autotune.search.store import MANIFEST, RunFolder
from xslim.errors import ConfigError

if TYPE_CHECKING:
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
    if space.schedulers:
        from autotune.scoring.pipeline.schedulers import check_choices

        check_choices(loaded.model.path, space.schedulers, loaded.search_space)
    folder = RunFolder(out or Path("runs") / loaded.name)
    workers = worker_count(loaded, ray_address)
    threads = threads_each(workers) if ray_address is None else None
    if dry_run:
        from autotune.cli.plan import show_plan

        show_plan(loaded, folder.path, workers, threads or 1, as_json)
        return 0

    from autotune.search.run import SearchRun, evaluator_spec

    spec = evaluator_spec(loaded, folder.path, threads)
    again = resume_command(folder.path, str(experiment), overrides or (), ray_address)
    folder.acquire()
    try:
        folder.claim(loaded, space.to_data(), resume)
        keep_start(folder, experiment, overrides or (), ray_address)
        executor, tracker = executor_for(loaded, workers, ray_address, threads), _tracker(loaded, folder.path)
        with watching() as show:
            outcome = SearchRun(loaded, space, folder, executor, spec, tracker, show).run()
    except Exception as error:
        if not isinstance(error, ConfigError) and (folder.path / MANIFEST).exists():
            say(f"the run broke; what was measured is kept in {folder.path}; resume with: {again}")
            if disk_full(error):
                raise DiskFullError("the disk is full; free some space, then resume") from error
        raise
    finally:
        folder.release()
    if outcome.interrupted:
        say(f"interrupted; resume with: {again}")
        return INTERRUPTED
    report_or_warn(folder.path, outcome.summary)
    return _present(outcome.summary, folder.path, as_json)


def _present(summary: dict[str, Any], folder: Path, as_json: bool) -> int:
    from autotune.cli.show import print_summary

    if as_json:
        json.dump(summary, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_summary(summary, folder, notes=False)
    for warning in summary["warnings"]:
        say(f"note: {warning}")
    for dropped in summary["dropped"]:
        missed = ", ".join(f"{name} = {value:.4g}" for name, value in dropped["missed"].items())
        say(f"dropped trial {dropped['trial']}: misses its bound on held-out cases ({missed})")
    if not summary["front"]:
        say(f"no preset holds its bounds on held-out cases{_nearest(summary['nearest'])}")
        return MISSED
    return 0


def _nearest(found: dict[str, Any] | None) -> str:
    """What comes nearest, as the end of a line."""
    if found is None:
        return ""
    values = ", ".join(f"{name} {value:.4g}" for name, value in found["values"].items())
    return f"; trial {found['trial']} comes nearest with {values}: loosen the bounds, or search longer"


def _tracker(experiment: Experiment, folder: Path) -> Tracker:
    if experiment.tracking.kind == "none":
        from autotune.search.tracker import NullTracker

        return NullTracker()
    import os

    from autotune.search.mlflow_tracker import MLflowTracker

    return MLflowTracker(os.environ.get("MLFLOW_TRACKING_URI"), folder)
