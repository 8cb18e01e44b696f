"""Learners on tiny real models: each gives a policy that runs, and says what it lacks in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import xslim
from autotune.scoring.case import Case
from autotune.scoring.learning import LEARNERS
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.pipeline import PipelineRunner
from tests.scoring import families
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.prediction import Affine

CASES = (Case("one", 1), Case("two", 2))
STEPS = families.STEPS
EVERY_OTHER = Learned(Policy.from_pattern("".join("F."[i % 2] for i in range(STEPS))))


def learned(runner: PipelineRunner, lesson: Lesson) -> Learned:
    found = LEARNERS[lesson.name](runner, lesson, EVERY_OTHER, CASES)
    with (
        runner.sampled(found.sampling),
        xslim.attach(runner.pipe, found.policy, num_steps=runner.num_steps) as session,
    ):
        assert runner.draw(CASES[:1]).images.isfinite().all()
        assert session.requests == () or session.requests[-1].mismatch is None
    return found


@pytest.fixture(scope="module")
def flux(load: Callable[[str], PipelineRunner]) -> PipelineRunner:
    return load("flux")


def test_a_line_for_each_step_or_each_channel(flux: PipelineRunner) -> None:
    one = learned(flux, Lesson("rectify")).policy.corrector
    many = learned(flux, Lesson("rectify", {"per_channel": True})).policy.corrector
    assert isinstance(one, Affine)
    assert one.channels is None
    assert isinstance(many, Affine)
    assert many.channels is not None


def test_weights_of_the_network_go_to_the_folder(flux: PipelineRunner, tmp_path: Path) -> None:
    corrector = learned(flux, Lesson("mlp", {}, str(tmp_path))).policy.corrector
    assert corrector is not None
    assert corrector.kind == "mlp"
    (written,) = tmp_path.glob("mlp-*.safetensors")
    assert Path(corrector.weights) == written


def test_noise_levels_are_adjusted_where_the_pipeline_takes_them(flux: PipelineRunner) -> None:
    found = learned(flux, Lesson("adjust-steps")).sampling
    assert found.sigmas is not None
    assert len(found.sigmas) == STEPS
    assert all(a > b for a, b in zip(found.sigmas, found.sigmas[1:], strict=False))


def test_a_table_is_learned_in_place_of_the_controller(flux: PipelineRunner) -> None:
    found = learned(flux, Lesson("harmonica", {"beta": 10.0, "rollouts": 2})).policy.controller
    assert found.kind == "table"
    assert len(found.blocks) == STEPS
    assert set(found.blocks[0]) == {1}


def test_a_learner_names_the_setting_it_lacks(flux: PipelineRunner) -> None:
    with pytest.raises(ConfigError, match=r"^beta: missing; this key is required"):
        LEARNERS["harmonica"](flux, Lesson("harmonica", {"rollouts": 1}), EVERY_OTHER, CASES)
