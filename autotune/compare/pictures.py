"""Pictures for the report: which rows are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SPEEDS = (2.0, 4.0, 6.0, 8.0)  # at which methods are shown side by side
NEAR = 1.35  # a row's speed by the one that it is shown for, at most, and at least one over it
BEST = 5  # methods shown beside ours and fewer steps


def matched(rows: Sequence[Mapping[str, Any]], speed: float) -> list[Mapping[str, Any]]:
    """Rows to show for a speed: of every method the nearest one, the best methods first.

    Speed is one over the compute fraction where a row was not timed.
    """
    nearest: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if not 1 / NEAR <= speed_of(row) / speed <= NEAR:
            continue
        known = nearest.get(row["method"])
        if known is None or abs(np.log(speed_of(row) / speed)) < abs(np.log(speed_of(known) / speed)):
            nearest[row["method"]] = row
    fixed = [nearest.pop(method) for method in ("autotune", "fewer-steps") if method in nearest]
    rest = sorted(nearest.values(), key=lambda row: row["metrics"].get("lpips", float("inf")))
    return [*fixed, *rest[:BEST]]


def speed_of(row: Mapping[str, Any]) -> float:
    """The measured speedup; without a timing, one over the compute fraction."""
    return float(row["speedup"] or 1.0 / max(row["compute_fraction"], 1e-9))


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of all rows that are shown: at matched speeds, and all of our own."""
    shown = {row["id"] for speed in SPEEDS for row in matched(rows, speed)}
    return shown | {row["id"] for row in rows if row["method"] == "autotune"}
