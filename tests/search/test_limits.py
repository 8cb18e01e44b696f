"""What ends a search before its trials are in, and candidates that are not drawn on all cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.evaluator import Evaluator
from autotune.scoring.measurement import Measurement
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.search.executor import LocalExecutor
from autotune.search.experiment import Experiment
from autotune.search.run import SearchRun
from autotune.search.space import SearchSpace
from autotune.search.store import RunFolder
from autotune.search.tracker import NullTracker
from tests.search.support import EXPERIMENT, STEPS, Search, merged
from xslim.errors import ConfigError
from xslim.policy.policy import Pattern, Policy
from xslim.policy.preset import Preset


@pytest.mark.parametrize(
    ("key", "value", "most"),
    [("max_images", 12, 4), ("max_worker_seconds", 1e-6, 2), ("patience", 1, 13)],
)
def test_a_limit_ends_a_search_which_can_go_on(tmp_path: Path, key: str, value: float, most: int) -> None:
    phases: list[str] = []
    search = Search(tmp_path, {f"search.{key}": value})
    search.run(show=lambda status: phases.append(status.phase))
    assert len(search.rows) <= most
    assert any(f"trials: search.{key} is {value}" in phase for phase in phases)
    later = Search(tmp_path)
    later.run(resume=True)
    assert len(later.rows) == 14


def test_time_is_measured_only_where_it_counts(tmp_path: Path) -> None:
    untimed = {"objectives": ["compute_fraction", "psnr"], "search.timing_rounds": 0}
    search = Search(tmp_path, untimed)
    outcome = search.run()
    assert all("latency" not in row.scalars for row in search.rows)
    assert all(member["speedup"] > 1 for member in outcome.summary["front"]), "certification times"
    with pytest.raises(ConfigError, match=r"search\.timing_rounds: got 0; objectives\.0 needs at least 1"):
        Experiment.parse(merged(EXPERIMENT, {"search.timing_rounds": 0}))


@dataclass(frozen=True)
class Lame(FormulaEvaluator):
    """Patterns that end with a computed step draw pictures three times worse than the formula says."""

    num_steps: int = STEPS

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        measured = super().evaluate(policy, cases, timing_rounds, timed_traces, sampling)
        bare = policy.policy if isinstance(policy, Preset) else policy
        if not isinstance(bare.controller, Pattern) or not bare.controller.steps.endswith("F"):
            return measured
        rows: dict[str, Any] = {**measured.quality.rows, "psnr": measured.quality.rows["psnr"] - 10}
        return replace(measured, quality=replace(measured.quality, rows=rows))

    def build(self) -> Evaluator:
        return self


SPACE = {
    "families": {
        "pattern": {
            "base": {"controller": {"kind": "pattern", "steps": "F"}},
            "params": {
                "controller.steps": {
                    "type": "categorical",
                    "choices": ["F.F.F.F.F.F.", "F.F..F.F..FF", "F.F..FF...FF", "F.F.F..F...F"],
                }
            },
            "seeds": [{"controller.steps": "F.F.F.F.F.F."}],
        }
    }
}


def test_what_a_front_member_clearly_beats_is_not_drawn_on_all_cases(tmp_path: Path) -> None:
    changes = {
        "objectives": ["compute_fraction", "psnr"],
        "search": {
            **EXPERIMENT["search"],
            "trials": 12,
            "warm_starts": 1,
            "screening": False,
            "timing_rounds": 0,
        },
        "cases": {"search": 12, "holdout": 6, "batch": 4},
        "bounds": {},
    }
    experiment = Experiment.parse({**EXPERIMENT, **changes})
    folder, space = RunFolder(tmp_path), SearchSpace.parse(SPACE)
    folder.acquire()
    try:
        folder.claim(experiment, space.to_data(), False)
        outcome = SearchRun(experiment, space, folder, LocalExecutor(), Lame(), NullTracker()).run()
        rows = {str(row.params["controller.steps"]): row for row in folder.rows() if row.duplicate_of is None}
    finally:
        folder.release()
    assert rows["F.F.F.F.F.F."].cases == 12
    beaten = [row for steps, row in rows.items() if steps.endswith("FF")]
    assert beaten
    for row in beaten:
        assert row.cases == 4, "dropped after the first batch"
        assert len(row.errors["psnr"]) == 4
        assert np.isfinite(row.scalars["psnr"])
    assert all(not member["actions"].endswith("FF") for member in outcome.summary["front"])
