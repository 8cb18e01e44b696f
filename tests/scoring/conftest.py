"""The trained model at few steps, and tiny pipelines of every family, each loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.scoring.case import Case
from autotune.scoring.evaluator import EvaluatorSpec, PipelineEvaluator
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from tests.folders import PIPELINES, save
from tests.scoring import families
from tests.tiny import dit_pipeline
from tests.tiny.clip import save_clip
from xslim.policy.policy import Policy

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "experiments/models/dit-digits")
NET = str(ROOT / "experiments/models/digits-classifier")
STEPS = 6
SPEC = ModelSpec(MODEL, num_steps=STEPS, guidance_scale=1.5, device="cpu", batch=2)
CASES = tuple(Case(label, 11 + label) for label in range(5))
HALF = Policy.from_pattern("F.F.F.", start_block=0)


@pytest.fixture(scope="session")
def runner() -> PipelineRunner:
    return PipelineRunner(SPEC)


@pytest.fixture(scope="session")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> PipelineEvaluator:
    folder = tmp_path_factory.mktemp("references")
    evaluator = EvaluatorSpec(SPEC, MetricsSpec.digits(NET), str(folder)).build()
    assert isinstance(evaluator, PipelineEvaluator)
    return evaluator


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("pipelines")
    made = {name: save(build(), root / name) for name, build in PIPELINES.items()}
    return {**made, "dit": save(dit_pipeline(), root / "dit")}


@pytest.fixture(scope="session")
def specs(folders: dict[str, str]) -> dict[str, ModelSpec]:
    made = {
        name: ModelSpec(folders[name], families.STEPS, 3.0, device="cpu", batch=2, **request)
        for name, request in families.REQUESTS.items()
    }
    return {**made, "dit": ModelSpec(folders["dit"], families.STEPS, 3.0, device="cpu", batch=2)}


@pytest.fixture(scope="session")
def load(specs: dict[str, ModelSpec]) -> Callable[[str], PipelineRunner]:
    loaded: dict[str, PipelineRunner] = {}

    def get(name: str) -> PipelineRunner:
        if name not in loaded:
            loaded[name] = PipelineRunner(specs[name])
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")
