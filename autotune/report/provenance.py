"""Where the numbers come from: what a report says at its head and at its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune.report import words
from autotune.report.sources import Search
from autotune.search.manifest import Manifest
from autotune.search.store import MANIFEST, RESULTS
from xslim.errors import ConfigError

Facts = list[tuple[str, str]]


def head(search: Search) -> Facts:
    """Return what is searched, where and when."""
    summary = search.summary
    changed = search.folder / (RESULTS if summary is None else "summary.json")
    facts = [
        ("model", _model(search)),
        ("device", _device(search)),
        ("finished" if summary is not None else "last trial", _date(changed)),
        ("objectives", ", ".join(search.objectives)),
    ]
    if summary is None:
        return [*facts, ("trials", str(len(search.rows)))]
    trials = summary["trials"]
    counted = f"{trials['complete']} ({trials['deduplicated']} repeated, {trials['failed']} failed)"
    cost = f"{summary['images_generated']} images, {summary['wall_s']:.0f} s"
    return [*facts, ("trials", counted), ("cost of the search", cost), ("uncached", _uncached(summary))]


def facts(search: Search) -> Facts:
    """Return versions, hashes, seeds and what was compared with."""
    found: Facts = [("folder", str(search.folder))]
    if search.summary is not None:
        found += [("seed of the search", str(search.summary["seed"])), *_cases(search)]
        found += [(key, str(value)) for key, value in search.summary["environment"].items()]
        versions = search.summary.get("metric_versions", {})
        found += [("metric versions", ", ".join(f"{k} {v}" for k, v in versions.items()))]
    found += [(f"{name}, with its network", label) for name, label in search.nets.items()]
    try:
        manifest = Manifest.read(search.folder / MANIFEST)
        found += [("hash of the settings", manifest.sha256)]
        found += [("packages", ", ".join(f"{k} {v}" for k, v in manifest.versions.items()))]
    except ConfigError:
        pass  # another version's
    compared = search.comparison
    if compared is not None:
        cases = ", ".join(f"{key} {words.plain(value)}" for key, value in compared.cases.to_data().items())
        found += [("comparison's device", compared.device), ("comparison's cases", cases)]
        found += [
            (
                f"taken over from another comparison, on {source.environment.get('device', 'unknown')}",
                f"{', '.join(source.methods)}: {source.command}",
            )
            for source in compared.taken
        ]
    return [(term, text) for term, text in found if text]


def commands(search: Search) -> list[str]:
    """Return the commands that reproduce the numbers."""
    compared = search.comparison
    return [search.command, *([compared.command] if compared is not None and compared.command else [])]


def _model(search: Search) -> str:
    """The reference: of presets one that is sampled as it is, where there is one."""
    experiment = search.experiment
    presets = [m.preset for m in search.members if m.preset is not None]
    presets.sort(key=lambda preset: bool(preset.provenance.get("sampling")))
    if presets:
        model = presets[0].model
        size = f"{model.height}x{model.width} latent" if model.height else ""
        path = "" if experiment is None else experiment.model.path
        steps = model.num_steps if experiment is None else experiment.model.num_steps
        parts = (path, model.transformer, model.scheduler, f"{steps} steps", size, model.dtype)
        return ", ".join(part for part in parts if part)
    return "" if experiment is None else f"{experiment.model.path}, {experiment.model.num_steps} steps"


def _device(search: Search) -> str:
    if search.summary is not None:
        return str(search.summary["environment"].get("device", "unknown"))
    return "told when the search has ended"


def _date(path: Path) -> str:
    try:
        return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"
    except OSError:
        return "unknown"


def _uncached(summary: Any) -> str:
    base = summary["baseline"]
    if base["latency_s"] is None:
        return "not timed"
    floor = "" if base["a_a_floor"] is None else f", A/A floor {100 * base['a_a_floor']:.1f} %"
    return f"{base['latency_s']:.3g} s a batch of {base['batch']}{floor}"


def _cases(search: Search) -> Facts:
    for member in search.members:
        if member.preset is not None:
            held = member.preset.quality.holdout
            about = [
                f"{held.get('cases')} cases",
                f"seed {held.get('cases_seed')}",
                f"{held.get('cases_sha256')}",
            ]
            return [("held-out cases", ", ".join(about))]
    return []


def as_json(data: Any) -> str:
    """JSON that may stand inside a `<script>`: nothing in it can end the element."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
