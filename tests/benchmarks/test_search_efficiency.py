"""What counts as an evaluation and a picture, and how the result is composed; on the formula evaluator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_search_efficiency as bench
import ecad
import pytest
from efficiency import HOLDOUT, SEARCH, Problem

from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.evaluator import Evaluator
from autotune.search.pareto import front, hypervolume

ROOT = Path(__file__).parents[2]
REFERENCE = (1.0, 0.2)
PROBED = 12 * 2 + 2  # pictures of the profile's probes, and their references


@dataclass(frozen=True)
class FormulaProblem(Problem):
    """The cases and settings of a real problem, measured by a formula."""

    broken: bool = False

    def real(self) -> Evaluator:
        if self.broken:
            raise AssertionError("nothing new should be measured")
        return FormulaEvaluator()

    def reference(self) -> tuple[float, float]:
        return REFERENCE


@pytest.fixture
def problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FormulaProblem:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(bench, "CHECKPOINTS", (2, 6))
    monkeypatch.setattr(bench, "LONG", 40)
    return FormulaProblem("dit-digits", tmp_path)


def result(unit: bench.Unit, problem: Problem) -> dict[str, Any]:
    bench.run(unit, problem)
    found: dict[str, Any] = json.loads(unit.path(problem.out).read_text())
    return found


def test_evolved(problem: FormulaProblem) -> None:
    unit = bench.Unit("dit-digits", "nsga2", 0)
    found = result(unit, problem)
    assert len(found["points"]) == 40
    assert list(found["fronts"]) == ["2", "6", "40"]
    assert found["images"] == SEARCH * (1 + 6)  # the references and 6 evaluations, not 40
    short = result(bench.Unit("dit-digits", "nsga2", 3), problem)
    assert list(short["fronts"]) == ["2", "6"]


def test_evolved_goes_on_from_what_is_stored(problem: FormulaProblem) -> None:
    unit = bench.Unit("dit-digits", "nsga2", 0)
    first = result(unit, problem)
    again = result(unit, FormulaProblem(problem.model, problem.out, broken=True))
    assert again == first


@pytest.mark.parametrize("method", bench.LOOPS)
def test_methods_see_the_same_problem(problem: FormulaProblem, method: str) -> None:
    experiment = problem.experiment(*bench.LOOPS[method])
    assert (experiment.cases, experiment.objectives) == (
        problem.experiment().cases,
        ("compute_fraction", "lpips"),
    )
    assert not experiment.bounds
    assert experiment.search.trials >= max(bench.CHECKPOINTS)


def test_searched(problem: FormulaProblem) -> None:
    found = result(bench.Unit("dit-digits", "random", 0), problem)
    assert len(found["points"]) == 6
    log = problem.folder / "runs" / "random-0" / "drawn.jsonl"
    assert found["images"] == sum(json.loads(line)["pictures"] for line in log.read_text().splitlines())
    assert found["images"] == SEARCH * (1 + 1 + 6) + PROBED  # references, the profile, 6 evaluations
    assert list(found["fronts"]) == ["2", "6"]
    # the search ends with its last evaluation: nothing was certified
    assert not (problem.folder / "runs" / "random-0" / "summary.json").exists()


def test_fronts_are_of_the_first_evaluations_on_held_out_cases(
    problem: FormulaProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "CHECKPOINTS", (20,))  # within the first generation
    found = result(bench.Unit("dit-digits", "nsga2", 0), problem)
    generation = ecad.Nsga2(*problem.shape, 0).ask()
    kept = front(found["points"][:20])
    assert len(kept) < 20
    held = [
        FormulaEvaluator()
        .evaluate(ecad.policy(generation[i]), problem.cases[1], 0)
        .quality.rows["lpips"]
        .mean()
        for i in kept
    ]
    assert [lpips for _, lpips in found["fronts"]["20"]] == pytest.approx(held)
    assert len(set(problem.cases[1])) == HOLDOUT
    assert not set(problem.cases[0]) & set(problem.cases[1])


def unit_of(seed: int, fronts: dict[str, list[list[float]]]) -> dict[str, Any]:
    return {"method": "nsga2", "model": "dit-digits", "seed": seed, "images": 100 + seed, "fronts": fronts}


def test_rows_are_medians_over_seeds() -> None:
    units = [
        unit_of(0, {"10": [[0.5, 0.1]], "400": [[0.5, 0.0]]}),
        unit_of(1, {"10": [[0.9, 0.1]]}),
        unit_of(2, {"10": [[0.5, 0.1], [0.25, 0.15], [2.0, 0.0]]}),
    ]
    row = bench.row_of(units, REFERENCE)
    # 0.5 * 0.1, and 0.25 * 0.05 more where there is a second point; 0.1 * 0.1 for the poorest
    assert row["hypervolume"] == {"10": pytest.approx(0.05), "400": pytest.approx(0.1)}
    assert hypervolume(units[2]["fronts"]["10"], REFERENCE) == pytest.approx(0.0625)
    assert (row["seeds"], row["seeds_400"], row["images"]) == (3, 1, 101)


def test_report(problem: FormulaProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "Problem", FormulaProblem)
    problem.folder.mkdir()
    (problem.folder / "device.json").write_text('"a machine"')
    done = result(bench.Unit("dit-digits", "nsga2", 0), problem)
    for method, change in (("random", {}), ("autotune", {}), ("tpe", {"identity": "of other weights"})):
        path = bench.Unit("dit-digits", method, 0).path(problem.out)
        path.write_text(json.dumps({**done, "method": method, **change}))
    found = bench.report(problem.out)
    assert [row["method"] for row in found["rows"]] == ["autotune", "random", "nsga2"]
    assert found["reference"] == {"dit-digits": REFERENCE}
    assert found["device"] == "a machine"
    highest = max(volume for row in found["rows"] for volume in row["hypervolume"].values())
    assert found["union"]["dit-digits"] >= highest > 0


def test_targets() -> None:
    rows = [
        {"method": "autotune", "model": "m", "hypervolume": {"10": 6.0, "40": 8.0}},
        {"method": "nsga2", "model": "m", "hypervolume": {"10": 4.0, "40": 5.0, "400": 6.0}},
    ]
    assert bench.targets({"rows": rows, "union": {"m": 9.0}}) == {
        "m/nsga2": {"at_10": 1.5, "gaps_at_40": 4.0, "at_400_of_our_40": 0.75}
    }
    assert bench.targets({"rows": rows[1:], "union": {"m": 9.0}}) == {}
