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
SAME = ("model", "num_steps", "counting", "request", "nets", "cases.quality", "cases.seed", "cases.sha256")
VERSIONS = tuple(f"environment.{name}" for name in ("torch", "diffusers", "xslim"))
ELSEWHERE = "timed on another machine: its speedup is left out"

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """What two speedups have to share to stand side by side: the machine, and the number of cases."""

    machine: frozenset[tuple[str, str]]
    cases: int

    @classmethod
    def of(cls, environment: Mapping[str, str], cases: int) -> Timing:
        """Read the machine off an environment: all but versions that quality depends on, too."""
        versions = {name.partition(".")[2] for name in VERSIONS}
        facts = {name: value for name, value in environment.items() if name not in versions}
        if "compile" in facts:  # counts the graphs of a process, besides
            facts["compile"] = str(facts["compile"] != "no")
        return cls(frozenset(facts.items()), cases)


@dataclass(frozen=True)
class Taken:
    """What other comparisons have measured.

    Attributes:
        rows: theirs; a speedup that is left out stands under `elsewhere`.
        not_run: points that they left out.
        budgets: method -> what it was given.
        sources: where each method's rows come from: `methods`, `command`, `environment`, on how many cases
            they were `timed`, and the `baseline`, two uncached runs among it.
    """

    rows: tuple[Data, ...] = ()
    not_run: tuple[Data, ...] = ()
    budgets: Mapping[str, Data] = field(default_factory=dict)
    sources: tuple[Data, ...] = ()

    @property
    def methods(self) -> list[str]:
        """Methods that have rows."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

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

    def and_of(self, other: Taken) -> Taken:
        """Together with what another one has of further methods; of two that only failed here, its rows."""
        mine = self.without(set(other.methods) - set(self.methods))
        more = other.without({name for source in mine.sources for name in source["methods"]})
        return Taken(
            (*mine.rows, *more.rows),
            (*mine.not_run, *more.not_run),
            {**mine.budgets, **more.budgets},
            (*mine.sources, *more.sources),
        )

    @property
    def timing(self) -> Timing | None:
        """How the first of the sources with speedups was timed; None where nothing was."""
        timed = {row["method"] for row in self.rows if row["speedup"] is not None}
        found = (source for source in self.sources if not timed.isdisjoint(source["methods"]))
        return next((_timing(source) for source in found), None)

    def timed_as(self, timing: Timing | None) -> Taken:
        """The same with the speedups that were measured so; others are laid aside, and may come back."""
        alike = {m for source in self.sources if _timing(source) == timing for m in source["methods"]}
        return replace(
            self,
            rows=tuple(retimed(row) if row["method"] in alike else untimed(row) for row in self.rows),
        )


def _timing(source: Data) -> Timing:
    return Timing.of(source["environment"], source["timed"])


def untimed(row: Data) -> Data:
    """A row with its speedup laid aside."""
    if row["speedup"] is None:
        return row
    intervals = {name: ends for name, ends in row["ci95"].items() if name != "speedup"}
    aside = {"speedup": row["speedup"], "ci95": row["ci95"].get("speedup")}
    return {
        **row,
        "speedup": None,
        "ci95": intervals,
        "notes": [*row["notes"], ELSEWHERE],
        "elsewhere": aside,
    }


def retimed(row: Data) -> Data:
    """A row with the speedup that was laid aside."""
    if row.get("elsewhere") is None:
        return row
    aside, notes = row["elsewhere"], [note for note in row["notes"] if note != ELSEWHERE]
    intervals = {**row["ci95"], "speedup": aside["ci95"]}
    rest = {name: value for name, value in row.items() if name != "elsewhere"}
    return {**rest, "speedup": aside["speedup"], "ci95": intervals, "notes": notes}


def methods_of(data: Data) -> list[str]:
    """Methods of a comparison, in the order of its rows."""
    return list(dict.fromkeys(point["method"] for point in (*data["rows"], *data["not_run"])))


def taken_methods(data: Data) -> list[str]:
    """Methods of a comparison that it did not measure itself."""
    return [name for source in data.get("taken", ()) for name in source["methods"]]


def measured_methods(data: Data) -> list[str]:
    """Methods of a comparison that it measured itself."""
    taken = set(taken_methods(data))
    return [name for name in methods_of(data) if name not in taken]


def taken_from(data: Data) -> Taken:
    """All that a comparison measured, and what it had taken over itself."""
    own = {
        "methods": measured_methods(data),
        "command": data["command"],
        "environment": data["environment"],
        "timed": data["cases"]["timed"],
        "baseline": data["baseline"],
    }
    sources = tuple(source for source in (own, *data.get("taken", ())) if source["methods"])
    return Taken(tuple(data["rows"]), tuple(data["not_run"]), data["budgets"], sources)


def kept(data: Data) -> Taken:
    """What a comparison has taken over, for going on with it."""
    return taken_from(data).without(measured_methods(data))


def has_ours(before: Data | None, others: Data | None) -> bool:
    """Whether rows of our presets are taken over: from another comparison, or in the one that goes on."""
    taken = [] if before is None else taken_methods(before)
    return OWN in [*taken, *([] if others is None else methods_of(others))]


def read_rows(path: Path) -> dict[str, Any]:
    """Read a comparison whose rows are to be taken over: the file, or its folder.

    Raises:
        ConfigError: it is not there, not one, or not finished.
    """
    advice = "give the comparison.json of a finished comparison, or its folder"
    try:
        data = read_data(path if path.is_dir() else path.parent, FILE if path.is_dir() else path.name)
    except ConfigError:  # its advice, to delete the file, is for a comparison of one's own
        raise ConfigError(f"this is no comparison; {advice}", key="--rows", source=str(path)) from None
    if data is None:
        raise ConfigError(f"no comparison there; {advice}", key="--rows", source=str(path))
    if data.get("partial"):
        raise ConfigError("this comparison is not finished; finish it with --resume first", source=str(path))
    return data


def check_same(
    now: Data, then: Data, source: str, key: str, keys: Sequence[str] = (*SAME, *VERSIONS)
) -> None:
    """Refuse rows of another model, request, network, version or on other cases.

    Args:
        now: this comparison, as `comparison.json` holds it.
        then: the one whose rows are taken over; a file of an older version does not tell its `request`.
        source: its file.
        key: option that names it.
        keys: what is compared, dotted.

    Raises:
        ConfigError: says what differs.
    """
    found: list[str] = []
    for name in keys:
        before, here = _at(then, name), _at(now, name)
        if name == "counting":
            before = before or 1
        if name != "request" or before is not None:
            found += _differences(name, before, here)
    if found:
        raise ConfigError(
            f"holds rows of something else: {'; '.join(found[:3])}; leave it out, and name the methods in "
            "compare.methods, so that they are measured here",
            key=key,
            source=source,
        )


def _at(data: Any, key: str) -> Any:
    for name in key.split("."):
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def _differences(key: str, then: object, now: object) -> Sequence[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for name in sorted({*then, *now})
            for line in _differences(f"{key}.{name}", then.get(name), now.get(name))
        ]
    return [] if then == now else [f"{key} was {then}, now {now}"]
