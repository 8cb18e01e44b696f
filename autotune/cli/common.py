"""Options and output that several verbs share. Results go to stdout, everything else to stderr."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a key of the file, such as search.trials=8", metavar="KEY=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


def say(text: str) -> None:
    """Tell the user something that is no result."""
    typer.echo(text, err=True)
