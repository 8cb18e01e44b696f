"""`autotune report`: a search as one page, its plots, and the table; of a running search what is in."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import Json
from autotune.cli.show import print_summary, read_summary
from autotune.cli.unfinished import start_command, unfinished
from xslim.errors import ConfigError

if TYPE_CHECKING:
    from autotune.report.sources import Search

log = logging.getLogger(__name__)


def report(
    folder: Annotated[Path, typer.Argument(help="folder of a search, finished or not")],
    mlflow: Annotated[bool, typer.Option("--mlflow", help="attach it to the search's MLflow run")] = False,
    as_json: Json = False,
) -> None:
    """Write `report.html`, `pareto.png` and `comparison.png` into the folder, and print the table."""
    going = unfinished(folder)
    summary = read_summary(folder) if going is None else None

    from autotune.report.page import nothing_holds
    from autotune.report.sources import read_search

    search = read_search(folder, summary, start_command(folder), "" if going is None else str(going))
    page, *plots = files = write_report(search)
    if mlflow:
        from autotune.search.mlflow_tracker import attach

        attach(folder, files)
    if as_json:
        json.dump(_facts(search, page, plots), sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif summary is None:
        typer.echo(f"{folder}: {going}")
    else:
        print_summary(summary, folder)
    if not as_json:
        for path in plots:
            typer.echo(f"plot: {path}")
        typer.echo(f"report: {page}")
    if summary is not None and not summary["front"]:
        raise ConfigError(f"{nothing_holds(summary)}; its trials are in {page}", source=str(folder))


def write_report(search: Search) -> list[Path]:
    """Write page and plots; return their paths, the page first."""
    from autotune.report.figures import write_figures
    from autotune.report.page import write_page

    plots = write_figures(search)
    return [write_page(search), *plots]


def report_or_warn(folder: Path, summary: dict[str, Any]) -> None:
    """Write the report of what has just ended; that does not fail for want of one."""
    from autotune.report.sources import read_search

    try:
        write_report(read_search(folder, summary, start_command(folder)))
    except Exception as error:
        log.warning("no report.html: %s: %s", type(error).__name__, str(error).partition("\n")[0])


def plot_or_warn(folder: Path, data: dict[str, Any]) -> None:
    """Draw `comparison.png` of a comparison without a search; that does not fail for want of it."""
    from autotune.compare.document import ComparisonDocument
    from autotune.report.figures import comparison_png
    from autotune.report.frontier import all_methods

    comparison = ComparisonDocument.parse(data)
    if not comparison.rows:
        return
    try:
        comparison_png(folder / "comparison.png", comparison, all_methods(comparison))
    except Exception as error:
        log.warning("no comparison.png: %s: %s", type(error).__name__, str(error).partition("\n")[0])


def _facts(search: Search, page: Path, plots: list[Path]) -> dict[str, Any]:
    return {
        "report": str(page),
        "plots": [str(path) for path in plots],
        "partial": search.summary is None,
        "presets": [member.file for member in search.members if member.file],
        "trials": len(search.rows),
    }
