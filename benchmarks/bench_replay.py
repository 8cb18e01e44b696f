"""How well replay ranks schedules, and how fast: Spearman's rank correlation with measured LPIPS.

    python benchmarks/bench_replay.py [MODEL] [--schedules N]

Draws the search cases of an experiment under random and planned schedules, and compares their LPIPS with the
error model without coherence (DPCache's sum of squares), with the default one, and after the fit to the other
folds. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT

from autotune.scoring.case import make_cases
from autotune.scoring.sensitivity import probe_steps, sensitivity
from autotune.search.error_model import Weighting, fit, log_error, rank_correlation
from autotune.search.experiment import load_experiment
from autotune.search.run import evaluator_spec
from autotune.search.schedules import Scheduler
from xslim.policy.policy import Pattern, Policy

PREDICTORS = ({"kind": "hold"}, {"kind": "newton", "order": 1}, {"kind": "newton", "order": 2})
CASES = 8
PLANNED = (6, 8, 10, 13, 16, 20)  # computed steps of 50; each with every predictor


def policy(steps: str, predictor: dict[str, object]) -> Policy:
    """A static policy."""
    return Policy.parse({"controller": {"kind": "pattern", "steps": steps}, "predictor": predictor})


def schedules(scheduler: Scheduler, count: int) -> list[Policy]:
    """Random computed steps, from a tenth to a half of all; and exact schedules."""
    steps, rng = scheduler.profile.num_steps, np.random.default_rng(0)
    found = []
    for _ in range(count):
        full = int(rng.integers(max(2, steps // 10), steps // 2))
        chosen = {0, *rng.choice(np.arange(1, steps), full - 1, replace=False).tolist()}
        letters = "".join("F" if step in chosen else "." for step in range(steps))
        found.append(policy(letters, PREDICTORS[int(rng.integers(len(PREDICTORS)))]))
    for predictor in PREDICTORS:
        bare = policy("F" * steps, predictor)
        for full in sorted({max(2, round(budget * steps / 50)) for budget in PLANNED}):
            chosen = set(scheduler.computed_steps(bare.predictor, full))
            letters = "".join("F" if step in chosen else "." for step in range(steps))
            found.append(bare.model_copy(update={"controller": Pattern(steps=letters)}))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="dit-digits")
    parser.add_argument("--schedules", type=int, default=42, help="random ones, beside 18 planned")
    args = parser.parse_args()
    experiment = load_experiment(ROOT / "experiments" / f"{args.model}.yaml")
    with tempfile.TemporaryDirectory() as folder:
        evaluator = evaluator_spec(experiment, Path(folder), None).build()
        cases, _ = make_cases(experiment.model.prompts, CASES, 0, experiment.cases.seed)
        base = evaluator.profile(cases[: experiment.cases.batch])
        few = cases[: experiment.cases.sensitivity]
        probed = {step: evaluator.probe(few, step) for step in probe_steps(base.num_steps)}
        profile = base.with_sensitivity(sensitivity(base, probed))
        scheduler = Scheduler(profile)
        policies = schedules(scheduler, args.schedules)
        lpips = [float(evaluator.evaluate(one, cases, 0).quality.rows["lpips"].mean()) for one in policies]
    started = time.perf_counter()
    products = np.stack([scheduler.replay.run(one).products for one in policies])
    seconds = (time.perf_counter() - started) / len(policies)
    logs = np.log(lpips)

    def ranked(weighting: Weighting) -> float:
        return round(rank_correlation(log_error(products, weighting.matrix(profile.sensitivity)), logs), 4)

    fitted = fit(list(products), logs.tolist(), profile.sensitivity)
    line = {
        "model": args.model,
        "device": evaluator.device,
        "schedules": len(policies),
        "cases": CASES,
        "sum_of_squares": ranked(Weighting(coherence=0.0)),
        "coherent": ranked(Weighting()),
        "fitted": None if fitted is None else round(fitted.rank_correlation, 4),
        "replay_ms": round(1000 * seconds, 2),
        "command": f"python benchmarks/bench_replay.py {' '.join(sys.argv[1:])}".strip(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
