"""What metrics cost: FID of few pictures in many dimensions beside SciPy, and scoring beside drawing.

Prints one JSON line each:

- `fid`: 2048 dimensions and fewer pictures; SciPy's matrix square root of the product of covariances beside
  our singular values; target: within 1e-4 of it and at least 5 times faster.
- `scoring`: scoring a trial of the reference model (all paired metrics, FID and KID against the shipped
  features) beside drawing its pictures, uncached and under the fastest shipped preset; target: below 0.1.

Everything is interleaved, and medians are of rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.linalg
import torch
from common import ROOT

import xslim
from autotune.scoring.case import make_cases
from autotune.scoring.drawn import Drawn
from autotune.scoring.environment import environment
from autotune.scoring.metrics import ReferenceSet, fid
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from autotune.scoring.scores import joined, paired_values, set_values

DIMENSIONS = 2048  # of Inception's features
PRESET = "dit-digits/fast"
T = TypeVar("T")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=512, help="of each side of the FID")
    parser.add_argument("--rounds", type=int, default=5, help="of drawing and scoring")
    parser.add_argument(
        "--fid-rounds", type=int, default=1, help="SciPy takes a minute or more; 0 leaves it out"
    )
    parser.add_argument("--cases", type=int, default=16, help="of the scored trial")
    args = parser.parse_args()
    if args.fid_rounds:
        report("fid", **fid_figures(args.pictures, args.fid_rounds))
    report("scoring", **scoring_figures(args.cases, args.rounds))


def report(name: str, **figures: object) -> None:
    """Print one JSON line."""
    line = {
        "benchmark": name,
        **figures,
        **environment(torch.device("cpu")),
        "machine": platform.machine(),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
    }
    print(json.dumps(line), flush=True)


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Return seconds and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def with_square_root(x: np.ndarray, y: np.ndarray) -> float:
    """The usual implementation."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    return float(shift + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


def fid_figures(pictures: int, rounds: int) -> dict[str, object]:
    """Time both ways on the same features, the decaying spectrum of a network's."""
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(1 + np.arange(DIMENSIONS))
    mixing = rng.normal(size=(DIMENSIONS, DIMENSIONS)) * scale
    x, y = (np.abs(rng.normal(size=(pictures, DIMENSIONS)) @ mixing) for _ in range(2))
    y = y + 0.1
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed(lambda: fid(x, y)))
        theirs.append(timed(lambda: with_square_root(x, y)))
    value, expected = ours[0][1], theirs[0][1]
    seconds, root_seconds = (float(np.median([s for s, _ in runs])) for runs in (ours, theirs))
    return {
        "dimensions": DIMENSIONS,
        "pictures": pictures,
        "seconds": round(seconds, 4),
        "scipy_sqrtm_seconds": round(root_seconds, 3),
        "speedup": round(root_seconds / seconds, 1),
        "fid": round(value, 6),
        "relative_difference": float(f"{abs(value - expected) / expected:.3g}"),
        "target": "relative_difference <= 1e-4, speedup >= 5",
        "rounds": rounds,
    }


def scoring_figures(count: int, rounds: int) -> dict[str, object]:
    """Time drawing and scoring the same trial in turn."""
    runner = PipelineRunner(
        ModelSpec(str(ROOT / "experiments/models/dit-digits"), num_steps=50, guidance_scale=1.5, device="cpu")
    )
    cases, _ = make_cases(range(10), count, 0, seed=0)
    nets = load_nets(MetricsSpec.digits(str(ROOT / "experiments/models/digits-classifier")))
    given = ReferenceSet.load(
        str(ROOT / "experiments/models/dit-digits-stats.npz"), "metrics.reference_stats"
    )
    references = {"fid": given, "kid": given}
    preset = xslim.load_preset(PRESET)

    def draw() -> list[Drawn]:
        return [runner.draw(batch) for batch in runner.batches(cases)]

    def draw_cached() -> list[Drawn]:
        with xslim.attach(runner.pipe, preset, num_steps=50):
            return draw()

    def score(drawn: list[Drawn]) -> dict[str, float]:
        parts = [paired_values(a, b, nets) for a, b in zip(drawn, uncached, strict=True)]
        rows = joined([rows for rows, _ in parts])
        means = {name: float(values.mean()) for name, values in rows.items()}
        return means | set_values(joined([features for _, features in parts]), references)

    uncached = draw()
    once, _ = timed(lambda: score(uncached))  # also prepares the reference set, once a search
    slow, fast, scoring = [], [], []
    for _ in range(rounds):
        slow.append(timed(draw)[0])
        seconds, drawn = timed(draw_cached)
        fast.append(seconds)
        scoring.append(timed(partial(score, drawn))[0])
    per_round = np.asarray(scoring)
    return {
        "model": "dit-digits",
        "cases": count,
        "preset": PRESET,
        "uncached_s": round(float(np.median(slow)), 3),
        "cached_s": round(float(np.median(fast)), 3),
        "scoring_s": round(float(np.median(scoring)), 4),
        "first_scoring_s": round(once, 3),
        "share_of_uncached": round(float(np.median(per_round / slow)), 4),
        "share_of_cached": round(float(np.median(per_round / fast)), 4),
        "share_max": round(float((per_round / fast).max()), 4),
        "metrics": sorted(score(uncached)),
        "target": "share_of_cached < 0.1",
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
