"""What changed between two searches, read from their folders and printed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.cli.show import read_summary
from autotune.compare.changes import BOUNDS, Finished, changes

VERDICTS = {
    "faster": "faster, beyond both intervals",
    "slower": "slower, beyond both intervals",
    "tie": "no difference beyond the intervals",
    "gained": "gained",
    "lost": "lost",
    "none": "neither",
    "other bounds": "not compared: other bounds",
    "other device": "not compared: other devices",
}
MAX_SETTINGS = 20  # printed
MAX_VALUE = 40  # characters of one


def compare_searches(a: Path, b: Path) -> dict[str, Any]:
    """Return what changed from one search's folder to another's.

    Raises:
        ConfigError: a folder holds no finished search, or they are of different models, cases or metrics.
    """
    return changes(*(Finished.read(folder, read_summary(folder)) for folder in (a, b)))


def print_changes(data: Mapping[str, Any]) -> None:
    """Print what `compare_searches` returned; speedups are those of the held-out cases."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"from {data['folders'][0]} to {data['folders'][1]}", title_justify="left")
    for column in ("tier", "from", "to", "change"):
        table.add_column(column)
    for name, tier in data["tiers"].items():
        shown = [_speedup(found) for found in tier["fastest"]]
        table.add_row("front" if name == BOUNDS else name, *shown, VERDICTS[tier["verdict"]])
    console.print(table)
    for line in _lines(data):
        console.print(line, highlight=False, markup=False)


def _speedup(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["ci95"]
    return f"{found['speedup']:.2f}x ({low:.2f}-{high:.2f})"


def _lines(data: Mapping[str, Any]) -> list[str]:
    volume, front, budget = data["hypervolume"], data["front"], data["budget"]
    first, second = volume["values"]
    note = "" if volume["comparable"] else f" (not comparable: {volume['reason']})"
    lines = [f"hypervolume: {first:.4f}, then {second:.4f}{note}"]
    if not data["speedups_compare"]:
        lines.append("speedups are not compared: {} and {}".format(*data["devices"]))
    kept = len(front["kept"])
    lines.append(f"front: {kept} kept, {len(front['gained'])} gained, {len(front['lost'])} lost")
    lines += [f"  + {_member(m)}" for m in front["gained"]] + [f"  - {_member(m)}" for m in front["lost"]]
    trials = [trial["complete"] for trial in budget["trials"]]
    lines.append(
        f"budget: {_pair(trials)} trials, {_pair(budget['images'])} images, "
        f"{_pair([f'{seconds:.0f}' for seconds in budget['wall_s']])} s"
    )
    differing = {**data["settings"], **{f"version of {k}": v for k, v in data["versions"].items()}}
    lines.append(f"settings that differ: {len(differing) or 'none'}")
    lines += [f"  {key}: {_pair(values)}" for key, values in list(differing.items())[:MAX_SETTINGS]]
    left = len(differing) - MAX_SETTINGS
    return [*lines, f"  and {left} more; see --json"] if left > 0 else lines


def _member(member: Mapping[str, Any]) -> str:
    return f"{member['speedup']:.2f}x {Path(member['preset']).stem}: {member['actions']}"


def _pair(values: Sequence[object]) -> str:
    first, second = ("not given" if value is None else str(value) for value in values)
    first, second = (v if len(v) <= MAX_VALUE else f"{v[: MAX_VALUE - 1]}…" for v in (first, second))
    return f"{first} -> {second}"
