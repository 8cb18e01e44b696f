"""A comparison's tables at equal quality and at equal speed, its hypervolumes and budgets, for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from autotune.compare.document import AtQuality, ComparisonDocument
from autotune.report import words
from autotune.report.tables import Cell, Column, Table

Values = Mapping[str, float | None]


def equal_tables(comparison: ComparisonDocument, methods: Sequence[str]) -> list[Table]:
    """Return the tables that have a value, a row for each method.

    Args:
        comparison: with `tables`.
        methods: in the page's order.
    """
    label = words.metric_title("lpips", comparison.nets)
    found, volume = comparison.tables, "hypervolume"
    compute = [(_at(entry, comparison), entry.cost) for entry in found.compute_fraction_at_lpips]
    speeds = [(_at(entry, comparison), _inverted(entry.cost)) for entry in found.latency_at_lpips]
    errors = [(f"{entry.speedup:g}x", entry.lpips) for entry in found.lpips_at_speedup]
    made = (
        ("equal-compute", f"Compute fraction at equal {label} (that of fewer steps)", compute, "{:.3f}"),
        ("equal-latency", f"Measured speedup at equal {label} (that of fewer steps)", speeds, "{:.2f}x"),
        ("equal-speed", f"{label} at equal measured speedup", errors, "{:.4g}"),
        (volume, f"Hypervolume over compute fraction and {label}", [(volume, found.hypervolume)], "{:.4g}"),
    )
    titles = {row.method: row.title for row in reversed(comparison.rows)}
    shown = [_table(id_, caption, columns, form, methods, titles) for id_, caption, columns, form in made]
    return [table for table in shown if table.rows]


def budgets_table(comparison: ComparisonDocument, methods: Sequence[str]) -> Table:
    """What each method's sweep drew; for our presets what the search before it drew, too."""
    titles = {row.method: row.title for row in reversed(comparison.rows)}
    columns = (
        ("method", False),
        ("points", True),
        ("pictures", True),
        ("time (s)", True),
        ("learning (s)", True),
        ("search: trials", True),
        ("search: pictures", True),
        ("search: time (s)", True),
    )
    rows = []
    for method in _ordered(methods, comparison.budgets):
        spent = comparison.budgets[method]
        search = spent.search
        before = (None, None, None) if search is None else (search.trials, search.images, search.wall_s)
        numbers = (spent.points, spent.images, spent.wall_s, spent.learning_s, *before)
        cells = (Cell("" if n is None else _count(n), n) for n in numbers)
        title = titles.get(method, method)
        rows.append((Cell(title, title), *cells))
    caption = "Budgets: each method's sweep, and the search before our presets"
    return Table("budgets", caption, columns, tuple(rows))


def _table(
    id_: str,
    caption: str,
    columns: Sequence[tuple[str, Values]],
    form: str,
    methods: Sequence[str],
    titles: Mapping[str, str],
) -> Table:
    """Methods without any value get no row."""
    heads: tuple[Column, ...] = (("method", False), *((head, True) for head, _ in columns))
    known = {method: None for _, values in columns for method in values}
    rows = []
    for method in _ordered(methods, known):
        values = [values.get(method) for _, values in columns]
        if any(value is not None for value in values):
            title = titles.get(method, method)
            cells = (Cell("" if value is None else form.format(value), value) for value in values)
            rows.append((Cell(title, title), *cells))
    return Table(id_, caption, heads, tuple(rows))


def _ordered(methods: Sequence[str], known: Mapping[str, object]) -> Iterator[str]:
    """Those that are known: the page's order, then any that have no row."""
    yield from (method for method in methods if method in known)
    yield from (method for method in known if method not in methods)


def _at(entry: AtQuality, comparison: ComparisonDocument) -> str:
    """A column: the LPIPS, with the share of the steps at which fewer steps have it."""
    steps = round(entry.share * comparison.num_steps)
    return f"{entry.lpips:.4g} ({steps} of {comparison.num_steps} steps)"


def _inverted(costs: Values) -> Values:
    return {method: 1.0 / cost if cost else None for method, cost in costs.items()}


def _count(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.1f}"
