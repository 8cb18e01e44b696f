"""`autotune compare`: every method and peer side by side in one run, or what changed between two searches."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import Json, Overrides, say
from autotune.cli.report import plot_or_warn, report_or_warn
from autotune.cli.search import INTERRUPTED, search
from autotune.cli.show import SUMMARY, print_tables, read_summary
from autotune.cli.workers import executor_for, threads_each, worker_count
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.store import RunFolder
from xslim.errors import ConfigError

if TYPE_CHECKING:
    from autotune.compare.recipe import Recipe

DONE, MISSED = 0, 1
METHODS = "compare.methods"  # key of the experiment


def compare(
    target: Annotated[Path, typer.Argument(help="experiment YAML, or the folder of a finished search")],
    other: Annotated[Path | None, typer.Argument(help="folder of another finished search")] = None,
    out: Annotated[Path | None, typer.Option(help="output folder [default: runs/<name>]")] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with what is in the folder")] = False,
    rows: Annotated[
        Path | None, typer.Option(help="comparison whose rows of other methods are taken over")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster")] = None,
    as_json: Json = False,
) -> int:
    """Compare methods on held-out cases. The folder's search takes part; without one it is run first.

    With --rows and no search in the folder the presets' rows are taken over, too.
    """
    if target.is_dir() or other is not None:
        given = {"--out": out, "--set": overrides, "--rows": rows, "--resume": resume or None}
        if found := [name for name, value in given.items() if value]:
            raise ConfigError(f"two searches are compared as they are; leave {', '.join(found)} out")
        if not target.is_dir():
            raise ConfigError(
                "is no folder of a search; give two of them, or an experiment alone", source=str(target)
            )
        return _searches(target, other, as_json)
    loaded = load_experiment(target, overrides or ())
    folder = RunFolder(out or Path("runs") / loaded.name)

    from autotune.compare.methods import (
        check_families,
        check_names,
        family_of,
        load_recipes,
        methods_folders,
    )
    from autotune.compare.taken import has_ours, measured_methods, read_rows

    others = None if rows is None else read_rows(rows)
    recipes = load_recipes(*methods_folders(target))
    check_names(recipes, loaded.compare.methods, str(target))  # told before anything runs
    if (family := family_of(loaded.model.path)) is not None:
        check_families(recipes, loaded.compare.methods, family, str(target))
    before = _check(loaded, target, folder, resume)
    if others is not None and rows is not None:
        _check_rows(loaded, others, rows, ray_address is None)
    if before is not None and loaded.compare.methods is not None:
        names = [*loaded.compare.methods, *measured_methods(before)]
        overrides = _with_methods(overrides or [], names, recipes)
        loaded = load_experiment(target, overrides)
    if (folder.path / SUMMARY).exists() or not has_ours(before, others):
        status = _searched(target, folder, overrides, ray_address)
        if status not in (DONE, MISSED):
            return status
    command = _command(target, out, overrides, rows, ray_address)
    return _methods(loaded, recipes, folder, command, rows, ray_address, as_json)


def _searched(target: Path, folder: RunFolder, overrides: list[str] | None, ray_address: str | None) -> int:
    """Run the search whose presets take part, unless it has ended; its exit status."""
    status = DONE
    if not (folder.path / SUMMARY).exists():
        say("no finished search in the folder: it runs first")
        again = (folder.path / "study.db").exists()
        with redirect_stdout(sys.stderr):  # what goes to stdout is the comparison
            status = search(target, folder.path, overrides, again, False, ray_address)
    if status in (DONE, MISSED) and not read_summary(folder.path)["front"]:
        raise ConfigError(
            "the search has found no preset that holds its bounds, so there is nothing of ours to compare; "
            "loosen the bounds or search longer",
            source=str(folder.path),
        )
    return status


def _with_methods(overrides: list[str], names: list[str], recipes: dict[str, Recipe]) -> list[str]:
    """The overrides with these methods, as far as recipes are there: a resumed comparison loses none."""
    kept = [name for name in dict.fromkeys(names) if name in recipes]
    others = [override for override in overrides if override.partition("=")[0] != METHODS]
    return [*others, f"{METHODS}=[{','.join(kept)}]"]


def _command(
    target: Path, out: Path | None, overrides: list[str] | None, rows: Path | None, ray_address: str | None
) -> str:
    words = ["autotune", "compare", str(target)]
    words += [] if out is None else ["--out", str(out)]
    for override in overrides or ():
        words += ["--set", override]
    words += [] if rows is None else ["--rows", str(rows)]
    words += [] if ray_address is None else ["--ray-address", ray_address]
    return shlex.join(words)


def _check(loaded: Experiment, target: Path, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """Refuse what cannot be compared; return the comparison that is gone on with."""
    from autotune.compare.checks import check_again, check_search
    from autotune.compare.comparison import read_comparison
    from autotune.compare.run import comparison_seed

    before = read_comparison(folder.path)
    if before is not None:
        if not resume:
            raise ConfigError(
                "holds a comparison already; go on with --resume or choose another --out",
                source=str(folder.path),
            )
        check_again(folder.path, before, loaded, comparison_seed(loaded))
    if (folder.path / SUMMARY).exists():
        check_search(folder.path, loaded, loaded.space(target).to_data())
    return before


def _check_rows(loaded: Experiment, others: dict[str, Any], rows: Path, here: bool) -> None:
    """Refuse rows of something else, as far as this is known before anything is measured.

    Args:
        loaded: the experiment.
        others: the comparison whose rows are wanted.
        rows: its file.
        here: workers run in this environment, so that their versions are known.
    """
    from autotune.compare.comparison import facts
    from autotune.compare.run import comparison_seed, held_out
    from autotune.compare.taken import SAME, VERSIONS, check_same
    from autotune.scoring.environment import versions

    if loaded.compare.methods is None:
        raise ConfigError(
            "null measures all methods, so that no rows are taken over; name those to measure here",
            key=METHODS,
        )
    known = facts(loaded, held_out(loaded), comparison_seed(loaded))
    told = [name for name in VERSIONS if here and name.partition(".")[2] in others.get("environment", {})]
    known["environment"] = versions()
    check_same(known, others, str(rows), "--rows", (*SAME, *told))


def _methods(
    loaded: Experiment,
    recipes: dict[str, Recipe],
    folder: RunFolder,
    command: str,
    rows: Path | None,
    ray_address: str | None,
    as_json: bool,
) -> int:
    from autotune.compare.run import CompareRun
    from autotune.search.run import evaluator_spec

    workers = worker_count(loaded, ray_address)
    threads = threads_each(workers) if ray_address is None else None
    spec = evaluator_spec(loaded, folder.path, threads)
    folder.acquire()
    try:
        executor = executor_for(loaded, workers, ray_address, threads)
        data = CompareRun(loaded, recipes, folder, executor, spec, spec, command, say, rows).run()
    except Exception as error:
        if not isinstance(error, ConfigError):
            say(f"the run broke; what was measured is kept; resume with: {command} --resume")
        raise
    finally:
        folder.release()
    if data is None:
        say(f"interrupted; resume with: {command} --resume")
        return INTERRUPTED
    if (folder.path / SUMMARY).exists():
        report_or_warn(folder.path, read_summary(folder.path))
    else:
        plot_or_warn(folder.path, data)
    if as_json:
        json.dump(data, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_comparison(data, folder.path)
    return 0


def print_comparison(data: dict[str, Any], folder: Path) -> None:
    """Print the tables of a comparison."""
    print_tables(data)
    typer.echo(f"comparison: {folder / 'comparison.json'}")
    if (folder / SUMMARY).exists():
        typer.echo(f"report: {folder / 'report.html'}")
    elif (plot := folder / "comparison.png").exists():
        typer.echo(f"plot: {plot}")


def _searches(a: Path, b: Path | None, as_json: bool) -> int:
    """What changed between two finished searches."""
    from autotune.cli.changes import compare_searches, print_changes

    if b is None:
        raise ConfigError(
            "got one folder; give an experiment YAML, or the folders of two finished searches", source=str(a)
        )
    data = compare_searches(a, b)
    if as_json:
        json.dump(data, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_changes(data)
    return 0
