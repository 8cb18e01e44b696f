"""The trained model at few steps, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.scoring.evaluator import EvaluatorSpec, PipelineEvaluator
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.pipeline import ModelSpec, PipelineRunner

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "experiments/models/dit-digits")
NET = str(ROOT / "experiments/models/digits-classifier")
STEPS = 6
SPEC = ModelSpec(MODEL, num_steps=STEPS, guidance_scale=1.5, device="cpu", batch=2)


@pytest.fixture(scope="session")
def runner() -> PipelineRunner:
    return PipelineRunner(SPEC)


@pytest.fixture(scope="session")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> PipelineEvaluator:
    folder = tmp_path_factory.mktemp("references")
    evaluator = EvaluatorSpec(SPEC, MetricsSpec.digits(NET), str(folder)).build()
    assert isinstance(evaluator, PipelineEvaluator)
    return evaluator
