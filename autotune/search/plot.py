"""pareto.png: every trial, the front, and the certified presets with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.search.trial_row import TrialRow

MUTED, ACCENT = "#9aa5b1", "#0b6e4f"  # readable for the colour-blind, and in grey


def pareto_png(path: Path, summary: Mapping[str, Any], rows: Sequence[TrialRow]) -> Path:
    """Draw speed against quality: trials on search cases, presets on held-out cases.

    Args:
        path: file to write.
        summary: content of `summary.json`.
        rows: the search's trials.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120)
    timed = [row for row in rows if "speedup" in row.scalars]
    axes.scatter(
        [row.scalars["speedup"] for row in timed],
        [row.scalars["psnr_p5"] for row in timed],
        s=16,
        color=MUTED,
        label=f"{len(timed)} trials, search cases",
        zorder=2,
    )
    members = summary["front"]
    if members:
        speeds = [m["speedup"] for m in members]
        values = [m["holdout"]["psnr_p5"]["value"] for m in members]
        spread_x = bars(speeds, [m["holdout"]["speedup"]["ci95"] for m in members])
        spread_y = bars(values, [m["holdout"]["psnr_p5"]["ci95"] for m in members])
        axes.errorbar(
            speeds,
            values,
            xerr=spread_x,
            yerr=spread_y,
            fmt="o-",
            color=ACCENT,
            ms=5,
            lw=1.2,
            elinewidth=0.8,
            capsize=2,
            label="presets, held-out cases (95 % intervals)",
            zorder=3,
        )
    labels: dict[tuple[float, float], list[str]] = {}
    for tier, member in summary["tiers"].items():
        labels.setdefault((member["speedup"], member["holdout"]["psnr_p5"]["value"]), []).append(tier)
    for point, tiers in labels.items():
        text = ", ".join(tiers)
        axes.annotate(text, point, xytext=(6, 7), textcoords="offset points", fontsize=9, color=ACCENT)
    axes.set_xlabel("measured speedup of the denoising loop, paired (x)")
    axes.set_ylabel("PSNR to the uncached picture, 5th percentile (dB)")
    axes.set_title(f"{summary['experiment']}: {summary['trials']['complete']} trials")
    axes.legend(frameon=False)
    return finish(path, figure, axes)


def finish(path: Path, figure: Any, axes: Any) -> Path:
    """Give a plot the looks of all, and write it."""
    from matplotlib import pyplot

    axes.grid(alpha=0.25, zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return path


def bars(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """How far intervals reach below and above their values, as matplotlib's error bars take it."""
    low = [max(0.0, v - ci[0]) for v, ci in zip(values, intervals, strict=True)]
    high = [max(0.0, ci[1] - v) for v, ci in zip(values, intervals, strict=True)]
    return [low, high]
