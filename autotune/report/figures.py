"""comparison.png: every method of a comparison, with intervals, for papers and chats."""

from __future__ import annotations

from pathlib import Path

from autotune.compare.document import ComparisonDocument, Row
from autotune.compare.recipe import OWN
from autotune.report import words
from autotune.report.frontier import LOGARITHMIC, methods_of
from autotune.report.sources import Search
from autotune.search.pareto import front
from autotune.search.plot import ACCENT, bars, finish, pareto_png

COLOWN = (ACCENT, "#c2410c", "#1f5fa8", "#8e3b8e", "#946200", "#0e7490", "#be123c", "#525b66")
MARKERS = (
    "osD^vPX*<>p"  # their number and that of the colours have no common divisor: no pair comes twice soon
)
COLUMN = 27  # entries of the legend in a column


def write_figures(search: Search) -> list[Path]:
    """Write the static plots that the folder has data for; return their paths."""
    found = []
    if search.summary is not None:
        found.append(pareto_png(search.folder / "pareto.png", search.summary, search.rows))
    if search.comparison is not None and search.comparison.rows:
        found.append(comparison_png(search.folder / "comparison.png", search.comparison, methods_of(search)))
    return found


def comparison_png(path: Path, comparison: ComparisonDocument, methods: list[str]) -> Path:
    """Draw speed, or where not all was timed compute, against LPIPS or the first quality that all have.

    Lines go through the rows of a method that none of its own beats.

    Args:
        path: file to write.
        comparison: with one row at least.
        methods: in the order of their colours.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = comparison.rows
    x = "speedup" if all(row.speedup is not None for row in rows) else "compute_fraction"
    common = set.intersection(*(set(row.scalars) for row in rows))
    y = next(iter(words.measured(common)), "compute_fraction")
    columns = -(-len(methods) // COLUMN)
    figure, axes = pyplot.subplots(figsize=(9 + 3 * columns, 6.5), dpi=110)
    for place, method in enumerate(methods):
        own = sorted((row for row in rows if row.method == method), key=lambda row: row.scalars[x])
        ours, colour = method == OWN, COLOWN[place % len(COLOWN)]
        best = [own[i] for i in front([[_less(row, x), _less(row, y)] for row in own])]
        axes.plot(
            [row.scalars[x] for row in best],
            [row.scalars[y] for row in best],
            "-" if ours else ":",
            color=colour,
            lw=1.8 if ours else 0.9,
            zorder=3 if ours else 2,
        )
        axes.errorbar(
            [row.scalars[x] for row in own],
            [row.scalars[y] for row in own],
            xerr=_bars(own, x),
            yerr=_bars(own, y),
            fmt=MARKERS[place % len(MARKERS)],
            color=colour,
            ms=6 if ours else 4.5,
            elinewidth=0.8 if ours else 0.4,
            capsize=2 if ours else 0,
            label=own[0].title,
            zorder=3 if ours else 2,
        )
    better = f"{'higher' if words.larger_is_better(y) else 'lower'} is better"
    if y in LOGARITHMIC and any(row.scalars[y] > 0 for row in rows):
        least = min(row.scalars[y] for row in rows if row.scalars[y] > 0)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=least / 2)
        better += "; 0 lies below" if any(row.scalars[y] == 0 for row in rows) else ""
    axes.set_xlabel(words.TITLES[x])
    axes.set_ylabel(f"{words.metric_title(y, comparison.nets)}, {better}")
    axes.set_title(comparison.experiment + (" (partial)" if comparison.partial else ""))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)
    return finish(path, figure, axes)


def _less(row: Row, name: str) -> float:
    """A scalar, the smaller the better."""
    return -row.scalars[name] if words.larger_is_better(name) else row.scalars[name]


def _bars(rows: list[Row], name: str) -> list[list[float]]:
    values = [row.scalars[name] for row in rows]
    return bars(values, [row.intervals.get(name, (v, v)) for row, v in zip(rows, values, strict=True)])
