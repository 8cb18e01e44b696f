"""Error of the cost model on random schedules it was not fitted to. Target: median latency error <= 0.2."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time

from common import ROOT, load

from autotune.scoring.cost_check import PATTERNS, check_cost
from autotune.scoring.cost_count import Subject, count_cost
from autotune.scoring.cost_fit import ROUNDS, fit_cost
from autotune.scoring.environment import environment

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ROOT / "experiments/models/dit-digits"))
    parser.add_argument("--batch", type=int, default=4, help="pictures of a request")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times that the fit's requests are run")
    parser.add_argument("--patterns", type=int, default=PATTERNS, help="unseen schedules")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other schedules")
    args = parser.parse_args()
    runner, cases = load(args.model, args.batch)
    subject = Subject.of(runner, cases)
    marks = [time.perf_counter()]
    counted = count_cost(subject)
    marks.append(time.perf_counter())
    fitted = fit_cost(subject, counted, args.rounds)
    marks.append(time.perf_counter())
    checked = check_cost(subject, fitted, args.patterns, args.seed)
    marks.append(time.perf_counter())
    if checked.error is None or checked.fit is None:
        raise SystemExit("nothing was checked: give --patterns above 0")
    line = {
        "benchmark": "cost_model",
        "target": "latency_median <= 0.2",
        **{name: round(value, 4) for name, value in checked.error.to_data().items()},
        "fit": {name: float(f"{value:.4g}") for name, value in checked.fit.to_data().items()},
        "steps_s": {name: round(step.seconds or 0.0, 4) for name, step in checked.overview().items()},
        "steps_compute": {name: round(step.fraction, 4) for name, step in checked.overview().items()},
        "batch": checked.batch,
        "num_steps": checked.num_steps,
        "seed": args.seed,
        "load": round(os.getloadavg()[0], 1),
        "count_s": round(marks[1] - marks[0], 1),
        "fit_s": round(marks[2] - marks[1], 1),
        "check_s": round(marks[3] - marks[2], 1),
        **environment(runner.device, subject.transformer),
        "machine": platform.machine(),
        "command": f"python benchmarks/bench_cost_model.py {' '.join(sys.argv[1:])}".strip(),
    }
    print(json.dumps(line))
