"""The frontier as plain data: points of trials, presets and other methods, with what may be on the axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autotune.compare.document import ComparisonDocument, Row
from autotune.compare.recipe import OWN
from autotune.report import words
from autotune.report.sources import Member, Search
from autotune.search.trial_row import TrialRow
from xslim.errors import XSlimError
from xslim.policy.policy import Policy

LOGARITHMIC = ("lpips", "lpips_p95", "lpips_temporal", "lpips_temporal_p95", "latent_rel_l1")
MAX_TRIALS = 2000  # of the faint points; a page with more is slow on a phone


def frontier(search: Search) -> dict[str, Any]:
    """Return groups of points and the axes they can be drawn on; JSON-ready."""
    groups = [_trials(search), _presets(search), *_methods(search)]
    groups = [group for group in groups if group["points"]]
    names = {name for group in groups for point in group["points"] for name in point["values"]}
    nets = {**search.nets, **(search.comparison.nets if search.comparison else {})}
    return {
        "groups": groups,
        "x": [{"key": key, "title": words.TITLES[key]} for key in words.COSTS if key in names],
        "y": [
            {
                "key": key,
                "title": words.metric_title(key, nets),
                "log": key in LOGARITHMIC,
                "better": "higher is better" if words.larger_is_better(key) else "lower is better",
            }
            for key in words.measured(names)
        ],
    }


def methods_of(search: Search) -> list[str]:
    """Methods of the comparison, ours first; a method's place gives its colour and marker."""
    return [] if search.comparison is None else all_methods(search.comparison)


def all_methods(comparison: ComparisonDocument) -> list[str]:
    """Methods of a comparison, ours first."""
    found = list(dict.fromkeys(row.method for row in comparison.rows))
    return sorted(found, key=lambda method: (method != OWN, found.index(method)))


def _trials(search: Search) -> dict[str, Any]:
    rows = [row for row in search.rows if row.duplicate_of is None]
    shown = rows[-MAX_TRIALS:]
    points = []
    for row in shown:
        name = _exported(search, row)  # lies under its preset where search and held-out cases agree
        title = f"trial {row.trial}" + (f", exported as {name}" if name else "")
        point = _point(row.scalars, {}, [title, *_of_row(row)])
        points.append({**point, "pick": name} if name else point)
    return _group(f"{len(shown)} trials, search cases", "trials", points)


def _exported(search: Search, row: TrialRow) -> str:
    """Preset of a trial, with the policy that it tried: one with a corrector was not drawn by the trial."""
    for member in search.members:
        preset = member.preset
        if member.trial == row.trial and preset is not None and preset.policy.to_data() == row.policy:
            return member.name
    return ""


def _presets(search: Search) -> dict[str, Any]:
    points = [
        {**_point(m.scalars, m.intervals, [_title(m), *_of_member(m)]), "pick": m.name}
        for m in search.members
    ]
    name = "presets, held-out cases (95 %)" if search.summary is not None else "front so far, search cases"
    return _group(name, "presets", points)


def _methods(search: Search) -> list[dict[str, Any]]:
    rows = () if search.comparison is None else search.comparison.rows
    files = {member.file.rpartition("/")[2]: member.name for member in search.members if member.file}
    found = []
    for place, method in enumerate(methods_of(search)):
        own = [row for row in rows if row.method == method]
        points = [_of_method(row, files) for row in own]
        found.append({**_group(own[0].title, "method", points), "place": place, "method": method})
    return found


def _of_method(row: Row, files: Mapping[str, str]) -> dict[str, Any]:
    lines = [row.id, words.settings(row.config), words.shortened(row.actions, 60), *row.notes]
    point = _point(row.scalars, row.intervals, lines)
    name = files.get((row.preset or "").rpartition("/")[2])
    return point if name is None or row.method != OWN else {**point, "pick": name}


def _group(name: str, kind: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "points": points}


def _point(
    scalars: Mapping[str, float], intervals: Mapping[str, Iterable[float]], lines: Iterable[str]
) -> dict[str, Any]:
    names = (*words.COSTS, *words.measured(scalars))
    return {
        "values": {name: scalars[name] for name in names if name in scalars},
        "ci": {name: list(intervals[name]) for name in names if name in intervals},
        "lines": [line for line in lines if line],
    }


def _title(member: Member) -> str:
    return f"{member.name} ({', '.join(member.tiers)})" if member.tiers else member.name


def _of_member(member: Member) -> list[str]:
    about = "" if member.preset is None else words.describe(member.preset.policy)
    return [words.shortened(about, 90), words.shortened(member.actions, 60)]


def _of_row(row: TrialRow) -> list[str]:
    try:
        about = words.describe(Policy.parse(row.policy))
    except XSlimError:
        about = row.family
    return [words.shortened(about, 90), words.shortened(row.actions, 60), settings_of(row)]


def settings_of(row: TrialRow) -> str:
    """How a trial is sampled, where it is not as the reference."""
    return words.settings(row.sampling)
