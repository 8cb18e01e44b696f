"""What changed between two finished searches of the same model and held-out cases. Plain data in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.search.manifest import Manifest
from xslim.errors import ConfigError
from xslim.policy.document import describe
from xslim.policy.preset import load_preset

SCHEMA_VERSION = 1
# settings that decide which held-out pictures are drawn and how they are scored
SAME = (
    "model.",
    "model_sha256",
    "metrics.",
    "nets_sha256.",
    "cases.holdout",
    "cases.seed",
    "cases.batch",
    "cases.repeat",
)
FREE = ("model.device",)
SEARCHED = ("cases.search", "objectives", "bounds")  # decide what the hypervolume is of
SHOWN = 3  # differences named in an error
BOUNDS = "bounds"  # the experiment's own, beside the tiers


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished search.

    Attributes:
        folder: where it lies.
        summary: content of `summary.json`.
        manifest: content of `manifest.json`.
        policies: preset file -> its policy and sampling as plain data.
    """

    folder: Path
    summary: Mapping[str, Any]
    manifest: Manifest
    policies: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, summary: Mapping[str, Any]) -> Finished:
        """Read what a summary does not hold.

        Raises:
            ConfigError: the manifest or a preset is missing, or of another version.
        """
        try:
            manifest = Manifest.read(folder / "manifest.json")
        except ConfigError:
            raise ConfigError(
                "holds no manifest of this version; run the search again", source=str(folder)
            ) from None
        files = [member["preset"] for member in summary["front"]]
        presets = {file: load_preset(folder / file) for file in files}
        return cls(
            folder,
            summary,
            manifest,
            {
                file: {"policy": preset.policy.to_data(), "sampling": preset.provenance.get("sampling", {})}
                for file, preset in presets.items()
            },
        )

    @property
    def device(self) -> str:
        """What it was timed on."""
        return str(self.summary["environment"].get("device", "unknown"))


def changes(a: Finished, b: Finished) -> dict[str, Any]:
    """Say what the second search has that the first one has not, and the other way round.

    Raises:
        ConfigError: they are of different models, cases or metrics.
    """
    settings = _differences(a.manifest.settings, b.manifest.settings)
    _check(a, b, settings)
    same_device = a.device == b.device
    versions = _differences(a.manifest.versions, b.manifest.versions)
    return {
        "schema_version": SCHEMA_VERSION,
        "experiments": [a.summary["experiment"], b.summary["experiment"]],
        "folders": [str(a.folder), str(b.folder)],
        "devices": [a.device, b.device],
        "speedups_compare": same_device,
        "hypervolume": _hypervolume(a, b, settings, same_device),
        "tiers": {name: _tier(a, b, name, same_device) for name in _tiers(a, b)},
        "front": _front(a, b),
        "settings": settings,
        "versions": versions,
        "budget": {
            "trials": [dict(search.summary["trials"]) for search in (a, b)],
            "images": [search.summary["images_generated"] for search in (a, b)],
            "wall_s": [search.summary["wall_s"] for search in (a, b)],
        },
    }


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Key -> both values, of all that differ; None where one has no such key."""
    return {key: [a.get(key), b.get(key)] for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def _check(a: Finished, b: Finished, settings: Mapping[str, list[Any]]) -> None:
    found = [
        f"{key} is {_shown(first)} and {_shown(second)}"
        for key, (first, second) in settings.items()
        if key.startswith(SAME) and key not in FREE
    ]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ConfigError(
            f"{a.folder} and {b.folder} cannot be compared: {'; '.join(found[:SHOWN])}{more}; "
            "give two searches of the same model, held-out cases and metrics"
        )


def _shown(value: object) -> str:
    return "not given" if value is None else describe(value)


def _hypervolume(
    a: Finished, b: Finished, settings: Mapping[str, list[Any]], same_device: bool
) -> dict[str, Any]:
    reasons = [f"{key} differs" for key in settings if key.startswith(SEARCHED)]
    if not same_device and "latency" in a.summary["objectives"]:
        reasons.append("latency was measured on different devices")
    return {
        "values": [a.summary["hypervolume"], b.summary["hypervolume"]],
        "comparable": not reasons,
        "reason": "; ".join(reasons),
    }


def _tiers(a: Finished, b: Finished) -> list[str]:
    """The experiment's own bounds, and all tiers that either search asked for."""
    asked = [
        key.split(".")[1]
        for search in (a, b)
        for key in search.manifest.settings
        if key.startswith("tiers.") and key.count(".") > 1
    ]
    return [BOUNDS, *dict.fromkeys(asked)]


def _bounds(search: Finished, tier: str) -> dict[str, Any]:
    prefix = f"{BOUNDS}." if tier == BOUNDS else f"tiers.{tier}."
    settings = search.manifest.settings
    return {
        key.removeprefix(prefix): value
        for key, value in settings.items()
        if key.startswith(prefix) and value is not None
    }


def _tier(a: Finished, b: Finished, tier: str, same_device: bool) -> dict[str, Any]:
    """The fastest certified preset of each search that holds some bounds, and whether they differ."""
    fastest = [_fastest(search, tier) for search in (a, b)]
    bounds = [_bounds(search, tier) for search in (a, b)]
    same_bounds = bounds[0] == bounds[1]
    return {
        "bounds": bounds[0] if same_bounds else bounds,
        "fastest": fastest,
        "verdict": _verdict(fastest, same_bounds, same_device),
    }


def _fastest(search: Finished, tier: str) -> dict[str, Any] | None:
    summary = search.summary
    members = summary["front"] if tier == BOUNDS else [summary["tiers"].get(tier)]
    found = [member for member in members if member is not None]
    if not found:
        return None
    member = max(found, key=lambda one: float(one["speedup"]))
    return {
        "preset": member["preset"],
        "speedup": member["speedup"],
        "ci95": member["holdout"]["speedup"]["ci95"],
        "actions": member["actions"],
    }


def _verdict(fastest: list[dict[str, Any] | None], same_bounds: bool, same_device: bool) -> str:
    """`faster` or `slower` of the second search where the 95 % intervals do not meet, else `tie`."""
    a, b = fastest
    if not same_bounds:
        return "other bounds"
    if a is None or b is None:
        return "none" if a is b else "lost" if b is None else "gained"
    if not same_device:
        return "other device"
    if b["ci95"][0] > a["ci95"][1]:
        return "faster"
    return "slower" if b["ci95"][1] < a["ci95"][0] else "tie"


def _front(a: Finished, b: Finished) -> dict[str, Any]:
    """Members of one front only, and of both, told by their policy and sampling."""
    members = [{_identity(search, m): m for m in search.summary["front"]} for search in (a, b)]
    first, second = members
    return {
        "gained": [_member(m) for key, m in second.items() if key not in first],
        "lost": [_member(m) for key, m in first.items() if key not in second],
        "kept": [
            {**_member(m), "speedups": [m["speedup"], second[key]["speedup"]]}
            for key, m in first.items()
            if key in second
        ],
    }


def _identity(search: Finished, member: Mapping[str, Any]) -> str:
    return json.dumps(search.policies[member["preset"]], sort_keys=True)


def _member(member: Mapping[str, Any]) -> dict[str, Any]:
    return {name: member[name] for name in ("preset", "trial", "speedup", "compute_fraction", "actions")}
