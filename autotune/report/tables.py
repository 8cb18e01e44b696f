"""The report's tables as plain data: columns, and cells with what they sort by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.compare.document import ComparisonDocument, Worst
from autotune.compare.recipe import OWN
from autotune.report import words
from autotune.report.sources import Member, Search

WORST = (("preset", False), ("metric", False), ("worst value", True), ("prompt", False), ("seed", True))
MAX_TRIALS = 1000  # rows of the table; the rest is in results.jsonl


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: as shown.
        sort: number or text that it sorts by; empty cells come last.
        pick: preset that it selects, or none.
        code: shown in a fixed-width font.
    """

    text: str
    sort: float | str | None = None
    pick: str = ""
    code: bool = False


Column = tuple[str, bool]  # title, and whether it holds numbers


@dataclass(frozen=True, slots=True)
class Table:
    """A sortable table.

    Attributes:
        id: in the page.
        caption: what it shows.
        columns: title, and whether it holds numbers.
        rows: the first cell of each is its header.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def front_table(search: Search) -> Table:
    """Presets with their intervals; of a running search the trials on the front so far."""
    names = _qualities(member.scalars for member in search.members)
    finished = search.summary is not None
    columns = [("preset" if finished else "trial", False), ("tier", False), *_titles(names, search.nets)]
    rows = [_of_member(member, names) for member in search.members]
    caption = "Presets on held-out cases; 95 % intervals in brackets"
    return Table(
        "front", caption if finished else "Front so far, on search cases", tuple(columns), tuple(rows)
    )


def comparison_table(comparison: ComparisonDocument) -> Table:
    """Every method at every point that was run."""
    names = _qualities(row.scalars for row in comparison.rows)
    titles = _titles(names, comparison.nets)
    columns = [
        ("point", False),
        ("method", False),
        ("source", False),
        *titles,
        ("memory", True),
        ("notes", False),
    ]
    rows = [
        (
            _text(row.id),
            _text(row.title),
            _text(row.source),
            *_numbers(names, row.scalars, row.intervals),
            Cell(words.number("memory", row.memory), row.memory),
            _text("; ".join(row.notes)),
        )
        for row in comparison.rows
    ]
    return Table("methods", "Methods; 95 % intervals in brackets", tuple(columns), tuple(rows))


def left_out_table(comparison: ComparisonDocument) -> Table:
    """What was not run, and why."""
    rows = [
        (_text(one.method), _text(words.settings(one.config)), _text(one.reason))
        for one in comparison.not_run
    ]
    columns = (("method", False), ("setting", False), ("reason", False))
    return Table("left-out", "Not run", columns, tuple(rows))


def worst_table(search: Search) -> Table:
    """The worst held-out case of every preset and metric."""
    rows = [
        _worst(member.name, name, Worst.parse(worst), search.nets)
        for member in search.members
        for name, worst in member.worst.items()
    ]
    caption = "Worst held-out case of each preset by each metric"
    return Table("worst", caption, WORST, tuple(rows))


def compared_worst_table(comparison: ComparisonDocument) -> Table:
    """The worst of the comparison's cases, of each row of ours and each metric."""
    rows = [
        _worst(row.id, name, worst, comparison.nets)
        for row in comparison.rows
        if row.method == OWN
        for name, worst in row.worst.items()
    ]
    caption = "Worst of the comparison's cases of each row of ours by each metric"
    return Table("compared-worst", caption, WORST, tuple(rows))


def _worst(point: str, name: str, worst: Worst, nets: Mapping[str, str]) -> tuple[Cell, ...]:
    return (
        _text(point),
        _text(words.metric_title(name, nets)),
        Cell(words.number(name, worst.value), worst.value),
        _text(str(worst.prompt)),
        Cell(str(worst.seed), float(worst.seed)),
    )


def trials_table(search: Search) -> Table:
    """Every trial, the last ones where there are very many."""
    rows = search.rows[-MAX_TRIALS:]
    names = _qualities(row.scalars for row in rows)
    columns = [("trial", True), ("family", False), ("asked by", False), *_titles(names, search.nets)]
    body = [
        (
            Cell(str(row.trial), float(row.trial)),
            _text(row.family),
            _text(row.source if row.duplicate_of is None else f"same as {row.duplicate_of}"),
            *_numbers(names, row.scalars, {}),
            Cell(row.actions, row.actions, code=True),
        )
        for row in rows
    ]
    cut = f"; the last {MAX_TRIALS} of {len(search.rows)}" if len(rows) < len(search.rows) else ""
    caption = f"Trials on search cases{cut}"
    return Table("trials", caption, (*columns, ("actions", False)), tuple(body))


def _of_member(member: Member, names: Sequence[str]) -> tuple[Cell, ...]:
    first = Cell(member.name, member.name, pick=member.name)
    return (first, _text(", ".join(member.tiers)), *_numbers(names, member.scalars, member.intervals))


def _qualities(scalars: Iterable[Mapping[str, float]]) -> list[str]:
    """Costs and qualities that any row has; rare metrics stay in the files."""
    found = set().union(*scalars)
    return [name for name in (*words.COSTS, *words.QUALITY) if name in found]


def _titles(names: Sequence[str], nets: Mapping[str, str]) -> list[tuple[str, bool]]:
    plain = {"speedup": "speedup", "compute_fraction": "compute"}
    return [(plain.get(name) or words.metric_title(name, nets), True) for name in names]


def _numbers(
    names: Sequence[str], scalars: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> list[Cell]:
    found = []
    for name in names:
        value = scalars.get(name)
        ends = intervals.get(name)
        shown = words.number(name, value).removesuffix(" dB")
        if ends is not None and value is not None and ends[0] != ends[1]:
            low, high = (words.number(name, end).removesuffix(" dB").removesuffix("x") for end in ends)
            shown += f" ({low} to {high})"
        found.append(Cell(shown, value))
    return found


def _text(text: str) -> Cell:
    return Cell(text, text or None)
