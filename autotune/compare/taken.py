"""Rows taken over from an earlier comparison of the same model on the same cases, method by method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.compare.document import FILE, read_data
from autotune.compare.recipe import OWN
from xslim.errors import ConfigError

# of a comparison; what is measured under others is no row of the same table
SAME = ("model", "num_steps", "nets", "cases", "environment")
MACHINE = ("device", "threads", "machine", "python")  # of the environment: under others no speedup compares


@dataclass(frozen=True)
class Taken:
    """What other comparisons have measured.

    Attributes:
        rows: theirs.
        not_run: points that they left out.
        budgets: method -> what it was given.
        sources: where each method's rows come from: `methods`, `command`, `environment`, and on how many
            cases they were `timed`.
    """

    rows: tuple[Mapping[str, Any], ...] = ()
    not_run: tuple[Mapping[str, Any], ...] = ()
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: tuple[Mapping[str, Any], ...] = ()

    def has(self, method: str) -> bool:
        """Whether there are rows of a method."""
        return any(row["method"] == method for row in self.rows)

    def without(self, methods: Collection[str]) -> Taken:
        """What is left when some methods are measured anew."""
        out = set(methods)
        sources = [
            {**source, "methods": [name for name in source["methods"] if name not in out]}
            for source in self.sources
        ]
        return Taken(
            tuple(row for row in self.rows if row["method"] not in out),
            tuple(point for point in self.not_run if point["method"] not in out),
            {method: budget for method, budget in self.budgets.items() if method not in out},
            tuple(source for source in sources if source["methods"]),
        )

    def timed_on(self, environment: Mapping[str, Any] | None) -> Taken:
        """The same without the speedups of other machines.

        Args:
            environment: of the machine; None for the one that timed the first of the sources.
        """
        sped = {row["method"] for row in self.rows if row["speedup"] is not None}
        timed = [source for source in self.sources if not sped.isdisjoint(source["methods"])]
        if environment is None:
            environment = timed[0]["environment"] if timed else {}
        machine = _machine(environment)
        away = {
            method
            for source in timed
            if _machine(source["environment"]) != machine
            for method in source["methods"]
        }
        return replace(self, rows=tuple(_untimed(row) if row["method"] in away else row for row in self.rows))

    def and_of(self, other: Taken) -> Taken:
        """Together with what another one has of further methods."""
        more = other.without({name for source in self.sources for name in source["methods"]})
        return Taken(
            (*self.rows, *more.rows),
            (*self.not_run, *more.not_run),
            {**self.budgets, **more.budgets},
            (*self.sources, *more.sources),
        )


def _machine(environment: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(environment.get(name) for name in MACHINE)


def _untimed(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if row["speedup"] is None:
        return row
    intervals = {name: ends for name, ends in row["ci95"].items() if name != "speedup"}
    notes = [*row["notes"], "timed on another machine: its speedup is left out"]
    return {**row, "speedup": None, "ci95": intervals, "notes": notes}


def methods_of(data: Mapping[str, Any]) -> list[str]:
    """Methods of a comparison, in the order of its rows."""
    return list(dict.fromkeys(point["method"] for point in (*data["rows"], *data["not_run"])))


def taken_methods(data: Mapping[str, Any]) -> list[str]:
    """Methods of a comparison that it did not measure itself."""
    return [name for source in data.get("taken", ()) for name in source["methods"]]


def measured_methods(data: Mapping[str, Any]) -> list[str]:
    """Methods of a comparison that it measured itself."""
    taken = set(taken_methods(data))
    return [name for name in methods_of(data) if name not in taken]


def taken_from(data: Mapping[str, Any]) -> Taken:
    """All that a comparison measured, and what it had taken over itself."""
    own = {
        "methods": measured_methods(data),
        "command": data["command"],
        "environment": data["environment"],
        "timed": data["cases"]["timed"],
    }
    sources = (own, *data.get("taken", ()))
    return Taken(tuple(data["rows"]), tuple(data["not_run"]), data["budgets"], sources)


def kept(data: Mapping[str, Any]) -> Taken:
    """What a comparison has taken over, for going on with it."""
    return taken_from(data).without(measured_methods(data))


def has_ours(before: Mapping[str, Any] | None, others: Mapping[str, Any] | None) -> bool:
    """Whether rows of our presets are taken over: from another comparison, or in the one that goes on."""
    taken = [] if before is None else taken_methods(before)
    return OWN in [*taken, *([] if others is None else methods_of(others))]


def read_rows(path: Path) -> dict[str, Any]:
    """Read a comparison whose rows are to be taken over: the file, or its folder.

    Raises:
        ConfigError: it is not there, or not one.
    """
    data = read_data(path if path.is_dir() else path.parent, FILE if path.is_dir() else path.name)
    if data is None:
        raise ConfigError(
            "no comparison there; give the comparison.json of one, or its folder", source=str(path)
        )
    return data


def rows_for(now: Mapping[str, Any], other: Mapping[str, Any], source: Path) -> Taken:
    """What may be taken over.

    Args:
        now: this comparison, as `comparison.json` holds it.
        other: the one whose rows are taken over.
        source: its file.

    Raises:
        ConfigError: says what differs.
    """
    found = [line for key in SAME for line in _differences(key, other.get(key), now.get(key))]
    elsewhere = tuple(f"environment.{name} was " for name in MACHINE)
    found = [line for line in found if not line.startswith((*elsewhere, "cases.timed was "))]
    taken, timed = taken_from(other), now["cases"]["timed"]
    counts = {of["timed"] for of in taken.sources} - {0}
    if timed and counts - {timed}:
        found.append(f"cases.timed was {max(counts - {timed})}, now {timed}")
    if found:
        raise ConfigError(
            f"holds rows of something else: {'; '.join(found[:3])}; leave it out, and name the methods in "
            "compare.methods, so that they are measured here",
            key="--rows",
            source=str(source),
        )
    return taken


def _differences(key: str, then: object, now: object) -> Sequence[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for name in sorted({*then, *now})
            for line in _differences(f"{key}.{name}", then.get(name), now.get(name))
        ]
    return [] if then == now else [f"{key} was {then}, now {now}"]
