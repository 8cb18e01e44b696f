"""`autotune report`: draw a finished search again: `pareto.png` and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.show import print_summary, read_summary
from autotune.search.store import RunFolder


def report(folder: Annotated[Path, typer.Argument(help="folder of a finished search")]) -> None:
    """Write `pareto.png` into the folder and print the table."""
    summary = read_summary(folder)

    from autotune.search.plot import pareto_png

    path = pareto_png(folder / "pareto.png", summary, RunFolder(folder).rows())
    print_summary(summary, folder)
    typer.echo(f"plot: {path}")
