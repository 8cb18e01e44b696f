"""Members of a finished search: which tiers chose which preset.

A trial's number alone does not name a preset: with `search.rectify` a pattern and the same pattern with a
corrector are two presets of one trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def with_tiers(summary: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """Return members of the front, and tiers' presets that are not on it, with the tiers that chose each.

    Two are the same when trial and held-out values are.

    Args:
        summary: content of `summary.json`.

    Returns:
        The fastest first.
    """
    listed = {_key(member): member for member in (*summary["tiers"].values(), *summary["front"])}
    chosen: dict[str, list[str]] = {}
    for tier, member in summary["tiers"].items():
        chosen.setdefault(_key(member), []).append(tier)
    found = [(member, tuple(chosen.get(key, ()))) for key, member in listed.items()]
    return sorted(found, key=lambda one: -one[0]["speedup"])


def _key(member: Mapping[str, Any]) -> str:
    return json.dumps([member["trial"], member["holdout"]], sort_keys=True)
