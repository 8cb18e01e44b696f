"""What the benchmarks share: the reference model, a batch, and the one JSON line they print."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np

from autotune.scoring.case import Case, make_cases
from autotune.scoring.environment import environment
from autotune.scoring.latency import paired
from autotune.scoring.measurement import Latency
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from xslim.policy.policy import Policy

ROOT = Path(__file__).resolve().parent.parent
WARMUP_ROUNDS = 1


def arguments(description: str | None) -> argparse.Namespace:
    """Parse what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default=str(ROOT / "experiments/models/dit-digits"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=6, help="A B B A rounds")
    return parser.parse_args()


def load(model: str, batch: int) -> tuple[PipelineRunner, tuple[Case, ...]]:
    """Load the pipeline and draw one batch of cases."""
    runner = PipelineRunner(ModelSpec(model, num_steps=50, guidance_scale=1.5, batch=batch))
    cases, _ = make_cases(range(10), batch, 0, seed=0)
    return runner, cases


def ratio(runner: PipelineRunner, cases: tuple[Case, ...], policy: Policy, rounds: int) -> Latency:
    """Time a policy against the unhooked model, interleaved, after a warm-up."""
    paired(runner, cases, policy, WARMUP_ROUNDS, 0.0)
    return paired(runner, cases, policy, rounds, 0.0)


def report(name: str, runner: PipelineRunner, latency: Latency, **figures: object) -> None:
    """Print one JSON line."""
    ratios = np.exp(latency.log_ratios)
    line = {
        "benchmark": name,
        **figures,
        "pairs": len(ratios),
        "speedup_median": round(float(np.median(ratios)), 4),
        "speedup_min_max": [round(float(ratios.min()), 4), round(float(ratios.max()), 4)],
        "uncached_s": round(latency.baseline_s, 4),
        "batch": latency.batch,
        **environment(runner.device),
        "machine": platform.machine(),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
    }
    print(json.dumps(line))
