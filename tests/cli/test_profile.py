"""`autotune profile` on the trained model at six steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autotune.cli.profile import _tell_cost, _tell_latency
from autotune.scoring import cost_fit
from autotune.scoring.cost import CostModel
from autotune.scoring.cost_parts import CostError
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.measurement import Latency
from autotune.scoring.profile import Profile
from tests.cli.support import Result

Autotune = Callable[..., Result]
SETTINGS = {
    "model.num_steps": 6,
    "search.certify_rounds": 1,
    "cases.search": 2,
    "cases.batch": 2,
    "cases.sensitivity": 1,
    "metrics.reference_stats": "null",
}


def test_a_profile_tells_what_schedules_cost(
    tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_fit, "MIXED", "FFTTFBBF..")
    threads = torch.get_num_threads()
    overrides = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    options = ("--cost-patterns", 3, "--cost-cases", 1)
    result = autotune(
        "profile", "experiments/dit-digits.yaml", "--out", tmp_path, "--json", *options, *overrides
    )
    assert result.status == 0, result.err
    assert torch.get_num_threads() == threads
    told = json.loads(result.out)["cost_model"]
    assert (told["batch"], told["counted"], told["error"]["patterns"]) == (1, True, 3)
    assert told["steps"]["full"]["compute_fraction"] == pytest.approx(1.0)
    assert told["steps"]["skip"]["compute_fraction"] < 0.01
    assert all(step["seconds"] >= 0 for step in told["steps"].values())
    assert told["error"]["compute_worst"] < 0.05
    assert told["trusted"] is (told["error"]["latency_median"] <= 0.2)
    cost = Profile.from_json((tmp_path / "profile.json").read_text()).cost
    assert cost is not None
    assert cost.fit is not None
    assert cost.fit.to_data() == told["fit"]
    assert cost.latency_ratio("F....F") < cost.latency_ratio("FFFFFF")


def measured(latency_median: float) -> CostModel:
    model = FormulaEvaluator(6).cost_model((), 0)
    error = CostError(
        patterns=20,
        latency_median=latency_median,
        latency_worst=0.5,
        compute_median=0.0,
        compute_worst=0.001,
        noise=0.03,
    )
    return model.model_copy(update={"error": error})


def test_a_fit_that_is_off_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    _tell_cost(measured(0.05))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == (
        "cost model on 20 unseen schedules: latency off by 5.0% in the median, 50.0% at worst; "
        "compute fraction 0.00%, 0.10%"
    )
    assert lines[-1] == "uncached requests in turn differ by 3.0%, which no model can predict"
    _tell_cost(measured(0.21))
    *before, last = capsys.readouterr().out.splitlines()
    assert before[-1] == lines[-1]
    assert last == "predicted latency is off by more than 20 %: rank by compute fraction or by measurement"


def test_notes_of_a_measurement_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _tell_latency(Latency((0.0, 0.0), 1.0, 1.0, 8, 0.25, notes=("busy machine: stop other work",)))
    assert capsys.readouterr().out == (
        "uncached: 1.00 s a batch of 8, A/A floor 25.0%\nbusy machine: stop other work\n"
    )
