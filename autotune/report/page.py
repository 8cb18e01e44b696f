"""The page: `report.html`, one file that needs neither a network nor a server."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from autotune.compare.document import ComparisonDocument
from autotune.compare.printed import leads
from autotune.report import provenance, tables
from autotune.report.equal_tables import budgets_table, equal_tables
from autotune.report.frontier import frontier, methods_of
from autotune.report.history import history
from autotune.report.importance import MIN_TRIALS, importances
from autotune.report.sources import Member, Search
from autotune.report.strips import strips
from autotune.report.timeline import timelines
from autotune.report.words import ACTIONS, describe, measured, metric_title, number
from autotune.search.store import RunFolder

FILE = "report.html"


def write_page(search: Search) -> Path:
    """Write `report.html` into the search's folder, whole or not at all."""
    return RunFolder(search.folder).write(FILE, page(search))


def page(search: Search) -> str:
    """Return the report as HTML. All texts from files are escaped by the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    templates = resources.files("autotune.report") / "templates"
    environment = Environment(
        loader=PackageLoader("autotune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, name: number(name, value)
    data = {"frontier": frontier(search), "history": history(search)}
    return environment.get_template("report.html").render(
        **_content(search),
        data=Markup(provenance.as_json(data)),
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def _content(search: Search) -> dict[str, Any]:
    compared = search.comparison
    return {
        **({} if compared is None else _compared(search, compared)),
        "name": search.name,
        "partial": search.summary is None,
        "going": search.going,
        "comparison": compared,
        "empty": _empty(search),
        "head": provenance.head(search),
        "warnings": [] if search.summary is None else search.summary["warnings"],
        "members": [_panel(search, member) for member in search.members],
        "chosen": _chosen(search),
        "front": tables.front_table(search),
        "worst": tables.worst_table(search),
        "trials": tables.trials_table(search),
        "strips": strips(search),
        "timelines": timelines(search),
        "actions": ACTIONS,
        "importances": importances(search),
        "min_trials": MIN_TRIALS,
        "facts": provenance.facts(search),
        "commands": provenance.commands(search),
    }


def _compared(search: Search, compared: ComparisonDocument) -> dict[str, Any]:
    """What is shown of a comparison."""
    order = methods_of(search)
    return {
        "methods": tables.comparison_table(compared),
        "left_out": tables.left_out_table(compared) if compared.not_run else None,
        "equal": equal_tables(compared, order),
        "leads": list(leads(compared.tables.to_data())),
        "budgets": budgets_table(compared, order),
        "compared_worst": tables.compared_worst_table(compared),
    }


def _empty(search: Search) -> str:
    """What is to be said where nothing holds the bounds."""
    if search.members:
        return ""
    if search.summary is None:
        return "no trial holds the bounds yet"
    return nothing_holds(search.summary)


def nothing_holds(summary: Any) -> str:
    """Why a finished search has no preset, and what to do."""
    found = summary.get("nearest")
    if found is None:
        return "no preset holds its bounds on held-out cases; loosen the bounds, or search longer"
    values = ", ".join(f"{name} {value:.4g}" for name, value in found["values"].items())
    return (
        f"no preset holds its bounds on held-out cases; trial {found['trial']} comes nearest with {values}: "
        "loosen the bounds, or search longer"
    )


def _panel(search: Search, member: Member) -> dict[str, Any]:
    """What is shown of a selected preset."""
    names = ["speedup", "compute_fraction", *measured(member.scalars), "memory"]
    lines = ""
    if member.file:
        lines = (
            f"preset = xslim.load_preset({json.dumps(member.file, ensure_ascii=False)})\n"
            "session = xslim.attach(pipe, preset)"
        )
    return {
        "name": member.name,
        "tiers": ", ".join(member.tiers),
        "lines": lines,
        "policy": "" if member.preset is None else describe(member.preset.policy),
        "bounds": list(member.bounds.items()),
        "metrics": [
            (_title(name, search), number(name, member.scalars[name]), _ends(name, member))
            for name in names
            if name in member.scalars
        ],
    }


def _title(name: str, search: Search) -> str:
    plain = {"speedup": "speedup", "compute_fraction": "compute fraction", "memory": "memory held"}
    return plain.get(name) or metric_title(name, search.nets)


def _ends(name: str, member: Member) -> str:
    low, high = member.intervals.get(name, (0.0, 0.0))
    return "" if low == high else f"{number(name, low)} to {number(name, high)}"


def _chosen(search: Search) -> str:
    """The preset that is selected at first: the middle one of those that a tier chose, else of all."""
    of_tiers = [member for member in search.members if member.tiers] or list(search.members)
    return of_tiers[len(of_tiers) // 2].name if of_tiers else ""
