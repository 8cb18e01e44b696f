"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(target: Path, text: str) -> None:
    """Write a text; readers see the old file or the new one, and it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
