"""A comparison and pictures made by hand, as `autotune compare` leaves them in a search's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
METHODS = {  # method -> title, error at twice the speed
    "autotune": ("autotune", 0.002),
    "fewer-steps": ("Fewer steps", 0.006),
    "teacache": ("TeaCache", 0.01),
    "dpcache": ("DPCache", 0.005),
}
SPEEDS = (2.0, 3.0, 4.5)


def row(method: str, speed: float, **changes: Any) -> dict[str, Any]:
    title, error = METHODS[method]
    lpips = error * (speed / 2) ** 3
    return {
        "id": f"{method}-{speed:g}",
        "method": method,
        "title": title,
        "source": "arXiv:2411.19108",
        "config": {"critical": 0.1 * speed},
        "speedup": speed,
        "compute_fraction": 0.9 / speed,
        "metrics": {"lpips": lpips, "psnr": 44 - 4 * speed, "ssim": 1 - lpips, "fid": 20 + 100 * lpips},
        "ci95": {"speedup": [speed * 0.95, speed * 1.05], "lpips": [lpips * 0.8, lpips * 1.25]},
        "actions": "FF..F..F.BT.",
        "memory": 1_048_576,
        "preset": None,
        "worst": {"lpips": {"value": 2 * lpips, "prompt": HOSTILE, "seed": 7}},
        "notes": [],
        **changes,
    }


def comparison(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "experiment": "formula",
        "num_steps": 12,
        "partial": False,
        "device": "a device",
        "command": "autotune compare runs/formula",
        "nets": {"lpips": "lpips_digits"},
        "cases": {"quality": 4, "timed": 2, "seed": 1, "sha256": "ab" * 32},
        "budgets": {
            "autotune": {
                "points": 3,
                "images": 100,
                "wall_s": 5.0,
                "search": {"trials": 14, "images": 900, "wall_s": 61.5},
            },
            "teacache": {"points": 3, "images": 12, "wall_s": 2.5},
        },
        "baseline": {"latency_s": 1.0, "metrics": {"fid": 19.0}},
        "rows": [row(method, speed) for method in METHODS for speed in SPEEDS],
        "not_run": [{"method": "cache-dit-dbcache", "config": {}, "reason": "needs cache-dit"}],
        "tables": {},
        **changes,
    }


def write_comparison(folder: Path, frames: int = 0, **changes: Any) -> None:
    """Write the comparison, and pictures that differ from the uncached ones by 3 levels per unit of speed."""
    data = comparison(**changes)
    (folder / "comparison.json").write_text(json.dumps(data))
    place = folder / "comparison" / "pictures"
    place.mkdir(parents=True, exist_ok=True)
    shape = (3, frames, 16, 16, 3) if frames else (3, 16, 16, 3)
    reference = np.random.default_rng(0).integers(60, 180, size=shape, dtype=np.uint8)
    np.savez(place / "reference.npz", images=reference)
    for one in data["rows"]:
        np.savez(place / f"{one['id']}.npz", images=reference + np.uint8(round(3 * one["speedup"])))
    cases = [{"prompt": HOSTILE if i == 0 else f"prompt {i}", "seed": i} for i in range(3)]
    (place / "cases.json").write_text(json.dumps(cases))
