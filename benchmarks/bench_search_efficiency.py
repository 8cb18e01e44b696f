"""How many evaluations a search needs: hypervolume of ours, random, TPE and ECAD's, on held-out cases.

Every method sees the same 8 search cases and minimises compute fraction and LPIPS. After 10, 20, 40 and 80
evaluations the front it has found on them is measured on 16 held-out cases; the hypervolume is of these
points, up to (1, LPIPS of uncached 10-step sampling). A policy that the method evaluated before is no
evaluation. Runs what is missing, then writes `results/search_efficiency.json`; stops and goes on at any time:

    python benchmarks/bench_search_efficiency.py [--only dit-digits/nsga2/0 …] [--report]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import ROOT
from ecad import Nsga2, policy
from efficiency import HOLDOUT, SEARCH, Point, Problem, StoredEvaluator, point, write_json

from autotune.scoring.case import Case
from autotune.search.executor import LocalExecutor, Task
from autotune.search.pareto import front, hypervolume
from autotune.search.run import SearchRun
from autotune.search.store import RunFolder
from autotune.search.tracker import NullTracker
from xslim.policy.policy import Policy

CHECKPOINTS = (10, 20, 40, 80)
LONG = 400  # evaluations of ECAD's search on the first model
LONG_SEEDS = 3
TRIALS = 160  # asked at most for 80 that are no duplicates
MODELS = {"dit-digits": 5, "flux-digits": 3}  # seeds
# settings of the searches that run through `SearchRun`
LOOPS = {
    "autotune": (f"search.trials={TRIALS}",),
    "random": (
        f"search.trials={TRIALS}",
        "search.warm_starts=0",
        "search.published=false",
        "search.screening=false",
        "search.sampler=random",
    ),
    "tpe": (
        f"search.trials={TRIALS}",
        "search.warm_starts=0",
        "search.published=false",
        "search.screening=false",
        "search.sampler=tpe",
    ),
}
METHODS = (*LOOPS, "nsga2")
RESULT = ROOT / "benchmarks" / "results" / "search_efficiency.json"


@dataclass(frozen=True)
class Evaluation:
    """A policy and where it lies on the search cases."""

    policy: Policy
    point: Point


@dataclass(frozen=True)
class Unit:
    """One search: a model, a method and a seed."""

    model: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """As in `--only`."""
        return f"{self.model}/{self.method}/{self.seed}"

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Numbers of evaluations after which the front is measured."""
        long = self.method == "nsga2" and self.model == next(iter(MODELS)) and self.seed < LONG_SEEDS
        return (*CHECKPOINTS, LONG) if long else CHECKPOINTS

    def path(self, out: Path) -> Path:
        """Where its result lies."""
        return out / "units" / f"{self.model}.{self.method}.{self.seed}.json"


class EnoughError(Exception):
    """The search has made its evaluations."""


class Budgeted(LocalExecutor):
    """Runs tasks in this process until a search has made its evaluations.

    Args:
        folder: of the search; its results are counted.
        cases: search cases; a policy that is measured on others ends the search too: it is certified.
    """

    def __init__(self, folder: RunFolder, cases: Sequence[Case]) -> None:
        super().__init__()
        self._folder = folder
        self._cases = frozenset(cases)

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            EnoughError: there are evaluations enough.
        """
        if task.kind == "evaluate":
            made = sum(row.duplicate_of is None for row in self._folder.rows())
            if made >= max(CHECKPOINTS) or not self._cases.issuperset(task.cases):
                raise EnoughError
        super().submit(task)


def searched(problem: Problem, unit: Unit) -> tuple[list[Evaluation], int]:
    """Run a search of the repository; return its evaluations in order, and how many pictures it drew."""
    experiment = problem.experiment(f"search.seed={unit.seed}", *LOOPS[unit.method])
    space = experiment.space(ROOT / "experiments" / f"{unit.model}.yaml")
    folder = RunFolder(problem.folder / "runs" / f"{unit.method}-{unit.seed}")
    folder.acquire()
    folder.claim(experiment, space.to_data(), resume=True)
    evaluator = problem.evaluator(folder.path / "drawn.jsonl")
    executor = Budgeted(folder, problem.cases[0])
    try:
        if SearchRun(experiment, space, folder, executor, evaluator, NullTracker()).run().interrupted:
            sys.exit(os.EX_TEMPFAIL)
    except EnoughError:
        pass
    finally:
        folder.release()
    rows = [row for row in folder.rows() if row.duplicate_of is None][: max(CHECKPOINTS)]
    points = [(row.scalars["compute_fraction"], row.scalars["lpips"]) for row in rows]
    policies = [Policy.parse(row.policy) for row in rows]
    return list(map(Evaluation, policies, points)), evaluator.images


def evolved(problem: Problem, unit: Unit) -> tuple[list[Evaluation], int]:
    """Run ECAD's search; return its evaluations in order, and how many pictures it drew up to 80."""
    log = problem.folder / "runs" / f"{unit.method}-{unit.seed}.jsonl"
    log.unlink(missing_ok=True)  # it starts over: the seed repeats, and what was evaluated is stored
    evaluator = problem.evaluator(log)
    search = Nsga2(*problem.shape, unit.seed)
    known: dict[bytes, Evaluation] = {}
    images = 0
    while generation := search.ask():
        for genome in generation:
            if genome.tobytes() in known or len(known) == max(unit.checkpoints):
                continue
            chosen = policy(genome)
            measured = evaluator.evaluate(chosen, problem.cases[0], 0)
            known[genome.tobytes()] = Evaluation(chosen, point(measured))
            images = evaluator.images if len(known) <= max(CHECKPOINTS) else images
        if len(known) == max(unit.checkpoints):
            break
        search.tell([known[genome.tobytes()].point for genome in generation])
    return list(known.values()), images


def held_out(evaluations: Sequence[Evaluation], evaluator: StoredEvaluator) -> list[Point]:
    """Measure the front that evaluations form on the search cases on the held-out ones."""
    chosen = front([one.point for one in evaluations])
    _, cases = evaluator.problem.cases
    return [point(evaluator.evaluate(evaluations[i].policy, cases, 0)) for i in chosen]


def run(unit: Unit, problem: Problem) -> None:
    """Run one search, measure its fronts, and keep both."""
    started = time.monotonic()
    reference = problem.reference()
    search = evolved if unit.method == "nsga2" else searched
    evaluations, images = search(problem, unit)
    evaluator = problem.evaluator(None)
    fronts = {str(count): held_out(evaluations[:count], evaluator) for count in unit.checkpoints}
    result = {
        "model": unit.model,
        "method": unit.method,
        "seed": unit.seed,
        "identity": problem.identity,
        "images": images,
        "points": [one.point for one in evaluations],
        "fronts": fronts,
    }
    write_json(unit.path(problem.out), result)
    volumes = {k: round(hypervolume(v, reference), 9) for k, v in fronts.items()}
    print(json.dumps({"unit": unit.name, "evaluations": len(evaluations), "images": images, **volumes}))
    print(f"{unit.name}: {time.monotonic() - started:.0f} s", flush=True)


def report(out: Path) -> dict[str, Any]:
    """Compose the result file of the searches that are done."""
    rows, union, references, device = [], {}, {}, ""
    for model in MODELS:
        problem = Problem(model, out)
        done = [json.loads(path.read_text()) for path in sorted((out / "units").glob(f"{model}.*.json"))]
        done = [one for one in done if one["identity"] == problem.identity]
        if not done:
            continue
        reference = references[model] = problem.reference()
        device = json.loads((problem.folder / "device.json").read_text())  # of the reference point
        rows += [
            row_of([one for one in done if one["method"] == method], reference)
            for method in METHODS
            if any(one["method"] == method for one in done)
        ]
        points = [p for one in done for found in one["fronts"].values() for p in found]
        union[model] = round(hypervolume(points, reference), 9)
    return {
        "device": device,
        "command": "python benchmarks/bench_search_efficiency.py",
        "reference": references,
        "cases": {"search": SEARCH, "holdout": HOLDOUT},
        "rows": rows,
        "union": union,
    }


def row_of(units: Sequence[dict[str, Any]], reference: Point) -> dict[str, Any]:
    """One method on one model: medians over its seeds."""
    volumes: dict[str, list[float]] = {}
    for unit in units:
        for count, points in unit["fronts"].items():
            volumes.setdefault(count, []).append(hypervolume(points, reference))
    fewer = {f"seeds_{count}": len(found) for count, found in volumes.items() if len(found) < len(units)}
    return {
        "method": units[0]["method"],
        "model": units[0]["model"],
        "hypervolume": {count: round(median(found), 9) for count, found in volumes.items()},
        "images": round(median(unit["images"] for unit in units)),
        "seeds": len(units),
        **fewer,
    }


def targets(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Ours beside the others: ratio at 10 evaluations (1.15 wanted), of gaps to the union at 40 (2 wanted).

    And at 400 of ECAD's against our 40 (below 1 wanted).
    """
    found: dict[str, dict[str, float]] = {}
    for model, union in result["union"].items():
        volumes = {row["method"]: row["hypervolume"] for row in result["rows"] if row["model"] == model}
        ours = volumes.pop("autotune", None)
        if ours is None:
            continue
        gap = max(union - ours["40"], 1e-12)
        for method, theirs in volumes.items():
            ratios = {
                "at_10": ours["10"] / max(theirs["10"], 1e-12),
                "gaps_at_40": (union - theirs["40"]) / gap,
            }
            if str(LONG) in theirs:
                ratios[f"at_{LONG}_of_our_40"] = theirs[str(LONG)] / ours["40"]
            found[f"{model}/{method}"] = {name: round(value, 3) for name, value in ratios.items()}
    return found


def main() -> None:
    """Run the missing searches, one after the other, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", metavar="MODEL/METHOD/SEED", help="run these only")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is done")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-efficiency")
    args = parser.parse_args()
    os.chdir(ROOT)
    out = args.out.resolve()
    units = [Unit(model, method, s) for model, n in MODELS.items() for method in METHODS for s in range(n)]
    for unit in units if not args.report else ():
        if (args.only is None or unit.name in args.only) and not unit.path(out).exists():
            run(unit, Problem(unit.model, out))
    if args.only is None or args.report:
        result = report(out)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(RESULT.read_text(), json.dumps(targets(result), indent=1))


if __name__ == "__main__":
    main()
