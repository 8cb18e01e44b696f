"""Which rows are shown side by side: methods at matched speeds. What is drawn is what the report shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.compare.document import Row
from autotune.compare.recipe import FEWER, OWN
from autotune.search.pareto import front

SPEEDS = (2.0, 4.0, 6.0, 8.0)  # at which methods are shown where there is no row of ours
STRIPS = 4  # speeds of ours at most
NEAR = 1.3  # speeds that differ by at most this factor are shown side by side
OTHERS = 3  # methods shown beside fewer steps and ours


@dataclass(frozen=True, slots=True)
class Matched:
    """Rows of about one speed.

    Attributes:
        speed: that they are matched to; over compute fractions where not every row was timed.
        rows: at most one of a method: fewer steps, ours, the others with the lowest LPIPS first.
    """

    speed: float
    rows: tuple[Row, ...]


def matched(rows: Sequence[Row]) -> list[Matched]:
    """Return the strips, slowest first: at speeds of our rows spread over their front, else at `SPEEDS`.

    Of every method the row that is nearest in speed is taken, if it is within a factor of `NEAR`. Speed is
    the measured one; where a row was not timed, one over the compute fraction for all.

    Args:
        rows: of a comparison.
    """
    timed = all(row.speedup for row in rows)
    speeds = {row.id: _speed(row, timed) for row in rows}
    found = []
    for speed in _speeds(rows, speeds):
        nearest: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: (abs(math.log(speeds[row.id] / speed)), _lpips(row))):
            if max(speeds[row.id] / speed, speed / speeds[row.id]) <= NEAR:
                nearest.setdefault(row.method, row)
        fixed = [nearest.pop(method) for method in (FEWER, OWN) if method in nearest]
        others = sorted(nearest.values(), key=_lpips)[:OTHERS]
        if fixed or others:
            found.append(Matched(speed, (*fixed, *others)))
    return found


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of all rows that are shown: those at matched speeds, and all of our own.

    Args:
        rows: of `comparison.json`, as plain data.
    """
    parsed = [Row.parse(row) for row in rows]
    shown = {row.id for strip in matched(parsed) for row in strip.rows}
    return shown | {row.id for row in parsed if row.method == OWN}


def _speeds(rows: Sequence[Row], speeds: Mapping[str, float]) -> list[float]:
    """Speeds of interest, slowest first."""
    ours = [row for row in rows if row.method == OWN]
    if not ours:
        return list(SPEEDS)
    best = [ours[i] for i in front([(-speeds[row.id], _lpips(row)) for row in ours])]
    known = sorted({speeds[row.id] for row in best})
    places = {round(i * (len(known) - 1) / (STRIPS - 1)) for i in range(STRIPS)}
    return [known[place] for place in sorted(places)]


def _speed(row: Row, timed: bool) -> float:
    return row.speedup if timed and row.speedup else 1.0 / max(row.compute_fraction, 1e-9)


def _lpips(row: Row) -> float:
    value = row.metrics.get("lpips")
    return math.inf if value is None else value
