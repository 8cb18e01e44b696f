"""`autotune show`: a search, or a preset, as a table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.cli.common import Json
from autotune.cli.unfinished import Unfinished, unfinished
from autotune.report.members import with_tiers
from autotune.report.words import column_title, describe
from autotune.scoring.sampling import REFERENCE, preset_sampling
from autotune.search.status import FILE as STATUS
from autotune.search.status import read_status
from autotune.search.store import MANIFEST, SUMMARY_VERSION
from xslim.errors import ConfigError
from xslim.policy.preset import Preset, load_preset

SUMMARY = "summary.json"
# scalars of the table, where they were measured -> how they are written
QUALITY_COLUMNS = {
    "psnr_p5": "{:.1f} dB",
    "lpips": "{:.4f}",
    "lpips_p95": "{:.4f}",
    "fid": "{:.2f}",
    "cmmd": "{:.3f}",
    "clip_score": "{:.2f}",
    "image_reward": "{:.2f}",
}


def show(
    target: Annotated[
        str,
        typer.Argument(help="folder of a search or comparison, its file, a preset file, or a shipped preset"),
    ],
    as_json: Json = False,
) -> None:
    """Print a search's front, or how far it is; a comparison's tables; or what a preset is made for."""
    folder = Path(target)
    comparison = _comparison_alone(folder)
    if comparison is not None:
        _print(comparison, as_json, lambda: print_tables(comparison))
    elif folder.name == SUMMARY:
        show(str(folder.parent), as_json)
    elif not folder.is_dir():
        preset = load_preset(target)
        _print(preset.to_data(), as_json, lambda: print_preset(preset))
    elif (going := unfinished(folder)) is not None:
        _print_going(going, folder, as_json)
    else:
        summary = read_summary(folder)
        _print(summary, as_json, lambda: print_summary(summary, folder))


def _comparison_alone(target: Path) -> dict[str, Any] | None:
    """The comparison in a JSON file, or in a folder without a search, as `--rows` leaves it."""
    from autotune.compare.document import FILE, read_data

    if target.is_dir():
        searched = any((target / name).exists() for name in (SUMMARY, MANIFEST))
        return None if searched else read_data(target, FILE)
    return read_data(target.parent, target.name) if _holds_rows(target) else None


def _holds_rows(file: Path) -> bool:
    try:
        data = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else None
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"rows", "cases"} <= set(data)


def print_tables(data: Mapping[str, Any]) -> None:
    """Print the rows and tables of a comparison."""
    from autotune.compare.printed import lines

    if data.get("partial"):
        typer.echo(f"not finished: {len(data['rows'])} rows so far; go on with: {data['command']} --resume")
    for line in lines(data):
        typer.echo(line)


def _print_going(going: Unfinished, folder: Path, as_json: bool) -> None:
    status = read_status(folder) if going.state == "running" else None
    if status is None:
        _print(going.to_data(), as_json, lambda: typer.echo(f"{folder}: {going}"))
    elif as_json:
        _print({**going.to_data(), "status": asdict(status)}, as_json, lambda: None)
    else:
        from rich.console import Console

        from autotune.cli.live import view

        typer.echo(f"{folder}: {going}")
        age_s = max(0.0, time.time() - (folder / STATUS).stat().st_mtime)
        Console(width=None if sys.stdout.isatty() else 120).print(view(status, age_s))


def _print(data: Mapping[str, Any], as_json: bool, as_text: Callable[[], None]) -> None:
    if as_json:
        json.dump(data, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        as_text()


def read_summary(folder: Path) -> dict[str, Any]:
    """Read a finished search.

    Raises:
        ConfigError: the folder holds none, or one of another version.
    """
    path = folder / SUMMARY
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        going = unfinished(folder)
        here = "holds no summary.json" if folder.is_dir() else "there is no such folder"
        if (folder / "comparison.json").exists():
            here = "holds a comparison without its search, which `autotune show` prints"
        problem = f"{here}; give the folder of a finished search"
        raise ConfigError(problem if going is None else str(going), source=str(folder)) from None
    except (OSError, ValueError):
        raise ConfigError("unreadable; run the search again", source=str(path)) from None
    if not isinstance(data, dict) or data.get("schema_version") != SUMMARY_VERSION:
        raise ConfigError(
            f"is no summary of schema version {SUMMARY_VERSION}; run the search again", source=str(path)
        )
    return data


def print_summary(summary: Mapping[str, Any], folder: Path, notes: bool = True) -> None:
    """Print the front of a search; numbers are those of the held-out cases.

    Args:
        summary: content of `summary.json`.
        folder: where it lies.
        notes: print what has to be known of the numbers, too.
    """
    from rich.console import Console
    from rich.table import Table

    nets = summary["nets"]
    table = Table(title=f"{summary['experiment']}: presets on held-out cases", title_justify="left")
    shown = {name: form for name, form in QUALITY_COLUMNS.items() if _measured(summary, name)}
    columns = [column_title(name, nets) for name in shown]
    for column in ("preset", "tier", "speedup (95 %)", "compute", *columns):
        table.add_column(column, justify="left" if column in ("preset", "tier") else "right", no_wrap=True)
    for member, tiers in with_tiers(summary):
        held = member["holdout"]
        low, high = held["speedup"]["ci95"]
        table.add_row(
            member["preset"].removeprefix("presets/").removesuffix(".yaml"),
            ", ".join(tiers),
            f"{member['speedup']:.2f}x ({low:.2f}-{high:.2f})",
            f"{member['compute_fraction']:.3f}",
            *(form.format(held[name]["value"]) for name, form in shown.items()),
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    trials, base = summary["trials"], summary["baseline"]
    console.print(
        f"{trials['complete']} trials ({trials['deduplicated']} repeated, {trials['failed']} failed), "
        f"{summary['images_generated']} images, {summary['wall_s']:.0f} s; uncached "
        f"{base['latency_s']:.2f} s a batch of {base['batch']}, A/A floor {100 * base['a_a_floor']:.1f} %",
        highlight=False,
    )
    if "screening" in summary:
        console.print(screening_line(summary["screening"]), highlight=False)
    kept = summary.get("references")
    if kept is not None:
        size = f"{kept['batches']} batches, {kept['bytes'] / 2**20:.1f} MiB"
        console.print(f"reference outputs: {size}", highlight=False)
    for warning in summary["warnings"] if notes else ():
        console.print(f"note: {warning}", highlight=False)
    console.print(f"folder: {folder}", highlight=False)


def screening_line(facts: Mapping[str, Any]) -> str:
    """How well replay ranked the trials, and whether the search made use of it."""
    found = facts["rank_correlation"]
    if found is None:
        return f"replay: too few trials ({facts['trials']}) to say how well it ranks {facts['metric']}"
    use = "it may propose points" if facts["trusted"] else "below 0.8 it proposes none"
    return f"replay ranks {facts['metric']} of {facts['trials']} trials with {found:.2f} (Spearman): {use}"


def _measured(summary: Mapping[str, Any], name: str) -> bool:
    members = [*summary["front"], *summary["tiers"].values()]
    return bool(members) and all(name in member["holdout"] for member in members)


def print_preset(preset: Preset) -> None:
    """Print a preset: what it is for, what it does, what it was measured to hold."""
    model, holdout = preset.model, preset.quality.holdout
    typer.echo(preset.name)
    size = f"{model.height}x{model.width} latent" if model.height else "any size"
    typer.echo(
        f"  model     {model.family} {model.transformer}, {model.num_steps} steps, {size}, {model.dtype}"
    )
    sampling = preset_sampling(preset)
    if sampling != REFERENCE:
        typer.echo(f"  sampling  {sampling}, unlike the reference it was measured against")
    typer.echo(f"  policy    {describe(preset.policy)}")
    for name, bound in preset.quality.bounds.items():
        value = holdout.get(name, {}).get("value")
        typer.echo(f"  bound     {name} {bound:g}" + ("" if value is None else f", held-out {value:.4g}"))
    nets = preset.provenance.get("nets")
    names: Mapping[str, str] = nets if isinstance(nets, Mapping) else {}
    for name in ("speedup", "compute_fraction", "psnr", "lpips", "ssim"):
        entry = holdout.get(name)
        if entry:
            interval = entry.get("ci95")
            shown = "" if interval is None else f"  ({interval[0]:.4g} - {interval[1]:.4g})"
            typer.echo(f"  {names.get(name, name):16} {entry['value']:.4g}{shown}")
    device = preset.provenance.get("device")
    if device:
        typer.echo(f"  measured  {holdout.get('cases', '?')} held-out cases on {device}")
    certified = preset.quality.certified
    if certified:
        where = f"{certified.get('cases', '?')} fresh cases on {certified.get('device', 'unknown')}"
        typer.echo(f"  certified {certified.get('date', '')}, {where}")
