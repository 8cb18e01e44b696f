"""A comparison as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autotune.compare.recipe import FEWER, OWN

SHOWN = 8  # methods beside ours and fewer steps in the tables at equal quality and speed


def lines(data: Mapping[str, Any]) -> Iterator[str]:
    """The rows, the tables at equal quality and at equal speed, and what was not run."""
    label = data["nets"].get("lpips", "lpips")
    cases = data["cases"]
    yield (
        f"{data['experiment']}: {len(data['rows'])} rows on {cases['quality']} held-out cases "
        f"(seed {cases['seed']}), {data['device']}"
    )
    yield ""
    yield f"  {'method':30} {'config':26} {'speedup (95 %)':>20} {'compute':>8} {label:>13} {'psnr':>6}"
    for row in data["rows"]:
        yield _row(row)
    names = ranked(data)
    yield ""
    yield f"compute fraction at equal {label} (that of fewer steps)"
    yield from _table(
        names,
        [
            (f"{entry['lpips']:.4g} ({_steps(entry, data)} steps)", entry["cost"])
            for entry in data["tables"]["compute_fraction_at_lpips"]
        ],
        "{:.3f}",
    )
    timed = [entry for entry in data["tables"]["latency_at_lpips"] if any(entry["cost"].values())]
    if timed:
        yield ""
        yield f"measured speedup at equal {label}"
        speeds = [
            (f"{e['lpips']:.4g} ({_steps(e, data)} steps)", {m: c and 1 / c for m, c in e["cost"].items()})
            for e in timed
        ]
        yield from _table(names, speeds, "{:.2f}x")
        yield ""
        yield f"{label} at equal speedup"
        at_speed = [(f"{e['speedup']:g}x", e["lpips"]) for e in data["tables"]["lpips_at_speedup"]]
        yield from _table(names, at_speed, "{:.4g}")
    yield ""
    yield from leads(data["tables"])
    yield from _budgets(data)
    for point in data["not_run"]:
        yield f"not run: {point['method']} {_config(point['config'])}: {point['reason']}"


def ranked(data: Mapping[str, Any]) -> list[str]:
    """Methods for a table: ours, fewer steps, and the best others by hypervolume."""
    volumes = data["tables"]["hypervolume"]
    others = sorted((m for m in volumes if m not in (OWN, FEWER)), key=lambda m: -volumes[m])
    return [*(m for m in (OWN, FEWER) if m in volumes), *others[:SHOWN]]


def _row(row: Mapping[str, Any]) -> str:
    low_high = row["ci95"].get("speedup")
    speed = "not timed"
    if row["speedup"] is not None and low_high is not None:
        speed = f"{row['speedup']:.2f}x ({low_high[0]:.2f}-{low_high[1]:.2f})"
    metrics = row["metrics"]
    lpips, psnr = metrics.get("lpips"), metrics.get("psnr")
    quality = "" if lpips is None else f"{lpips:.4g}"
    return (
        f"  {row['method']:30} {_config(row['config']):26} {speed:>20} {row['compute_fraction']:>8.3f} "
        f"{quality:>13} {'' if psnr is None else f'{psnr:.2f}':>6}"
    )


def _config(config: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in config.items() if not isinstance(value, dict))
    return text if len(text) <= 26 else f"{text[:25]}…"


def _steps(entry: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    return round(float(entry["share"] * data["num_steps"]))


def _table(
    names: Sequence[str], rows: Sequence[tuple[str, Mapping[str, float | None]]], form: str
) -> Iterator[str]:
    yield f"  {'':30} " + " ".join(f"{head:>18}" for head, _ in rows)
    for name in names:
        cells = [values.get(name) for _, values in rows]
        yield f"  {name:30} " + " ".join(f"{'-' if c is None else form.format(c):>18}" for c in cells)


def leads(tables: Mapping[str, Any]) -> Iterator[str]:
    """How far our presets are ahead, a sentence for compute and one for time; none where nothing is known.

    Args:
        tables: of `comparison.json`.
    """
    for cost, what in (("compute_fraction", "compute"), ("latency", "time")):
        lead = tables[f"{cost}_lead"]
        best, least, fewer = (
            lead.get(key) for key in ("median_over_best", "least_over_best", "median_over_fewer_steps")
        )
        if best is None or least is None:
            continue
        among = " that was timed" if cost == "latency" and lead.get("without") else ""
        line = (
            f"{OWN}: {best:.2f}x less {what} than the best other method{among} (median over "
            f"{lead['reached']} of {len(lead['at'])} LPIPS, least {least:.2f}x)"
        )
        yield line if fewer is None else f"{line}, {fewer:.2f}x less than {FEWER}"


def _budgets(data: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "pictures drawn: each method's sweep; for our presets the search, too"
    for method, spent in data["budgets"].items():
        search = spent.get("search")
        more = "" if search is None else f", search: {search['trials']} trials, {search['images']} pictures"
        if "learning_s" in spent:
            more += f", {spent['learning_s']:.0f} s of learning"
        yield f"  {method:30} {spent.get('points', 0):>3} points, {spent.get('images', 0):>5} pictures{more}"
