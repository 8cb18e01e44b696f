"""`autotune export`: presets for other runtimes. No exporter exists yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xslim.errors import ConfigError


def export(
    folder: Annotated[Path, typer.Argument(help="folder of a finished search")],
    to: Annotated[str, typer.Option("--to", help="the other runtime")],
) -> None:
    """Refuse, and name what works."""
    raise ConfigError(
        f"got {to!r}; no exporter exists yet; what works: xslim.load_preset() on {folder}/presets/*.yaml",
        key="--to",
    )
