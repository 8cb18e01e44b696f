"""Options and output that several verbs share. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a key of the file, such as search.trials=8", metavar="KEY=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
LINE_EVERY_S = 15.0  # without a terminal: a line now and then instead of a moving bar


def say(text: str) -> None:
    """Tell the user something that is no result."""
    typer.echo(text, err=True)


def progress(total: int) -> Callable[[int, float], None]:
    """Return a function that shows trials done and the hypervolume; a moving line on terminals only."""
    terminal = sys.stderr.isatty()
    last = [0.0]

    def show(done: int, volume: float) -> None:
        text = f"{done}/{total} trials, hypervolume {volume:.4f}"
        if terminal:
            typer.echo(f"\r{text}   ", err=True, nl=done >= total)
        elif done >= total or time.monotonic() - last[0] > LINE_EVERY_S:
            last[0] = time.monotonic()
            say(text)

    return show
