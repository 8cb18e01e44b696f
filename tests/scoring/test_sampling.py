"""Other numbers of steps and other schedulers than the reference's, on the trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import xslim
from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.evaluator import PipelineEvaluator
from autotune.scoring.measurement import Measurement
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.schedulers import build_scheduler, check_choices
from autotune.scoring.rectify_preset import fit_preset
from autotune.scoring.sampling import REFERENCE, Sampling, SchedulerChoice, sampling_of
from autotune.search.executor import Task, perform
from tests.scoring.conftest import CASES, HALF, MODEL, SPEC, STEPS
from xslim.errors import ConfigError, RequestMismatchError
from xslim.policy.policy import Policy
from xslim.policy.preset import ModelSignature, Preset
from xslim.runtime.signature import describe_model

SOLVER = Sampling(scheduler=SchedulerChoice(name="DPMSolverMultistepScheduler"))
THREE = Sampling(num_steps=3)
ALL = Policy.from_pattern("FFF")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"num_steps": 20},
        {"scheduler": "DDIMScheduler"},
        {"num_steps": 20, "scheduler": {"name": "DDIMScheduler", "config": {"beta_end": 0.03}}},
        {"num_steps": 2, "sigmas": [1.0, 0.5]},
    ],
)
def test_a_sampling_is_read_back(data: dict[str, object]) -> None:
    sampling = Sampling.parse(data)
    assert sampling_of(sampling.to_data()) == sampling
    assert (sampling == REFERENCE) is (data == {})
    assert sampling.steps(50) == data.get("num_steps", 50)
    assert sampling.against(20).num_steps == data.get("num_steps" if "sigmas" in data else "")
    assert sampling.against(50) == sampling


def test_sigmas_set_the_number_of_steps() -> None:
    sampling = Sampling(sigmas=(1.0, 0.75, 0.5, 0.25, 0.125, 0.0625, 0.03))
    assert sampling.num_steps == sampling.steps(50) == 7
    assert sampling.against(7) == sampling  # noise levels tell how many there are
    assert str(sampling) == "7 steps, sigmas 1 0.75 0.5 … 0.125 0.0625 0.03"


@pytest.mark.parametrize(
    "data",
    [
        {"num_steps": 1},
        {"num_steps": 2.5},
        {"scheduler": {}},
        {"steps": 3},
        {"sigmas": [1.0]},
        {"sigmas": [1.0, 0.0]},
        {"sigmas": [0.5, 1.0]},
        {"sigmas": [1.0, 0.5], "num_steps": 3},
        {"sigmas": [1.0, float("nan")]},
        {"sigmas": "1.0"},
    ],
)
def test_a_sampling_at_fault_is_one_line(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Sampling.parse(data)


def test_what_is_drawn_inside_is_sampled_otherwise(runner: PipelineRunner) -> None:
    own = runner.pipe.scheduler
    before = runner.draw(CASES[:2]).images
    drawn = []
    for sampling, steps, kind in ((THREE, 3, DDIMScheduler), (SOLVER, STEPS, DPMSolverMultistepScheduler)):
        with runner.sampled(sampling):
            drawn.append(runner.draw(CASES[:2]).images)
            assert (runner.num_steps, type(runner.pipe.scheduler)) == (steps, kind)
            assert len(runner.pipe.scheduler.timesteps) == steps
    assert not torch.equal(*drawn)
    assert not any(torch.equal(before, one) for one in drawn)
    with pytest.raises(RuntimeError, match="on purpose"), runner.sampled(SOLVER):
        raise RuntimeError("on purpose")
    assert runner.pipe.scheduler is own
    assert runner.num_steps == STEPS
    assert torch.equal(runner.draw(CASES[:2]).images, before)


def test_fewer_steps_are_measured_against_the_reference(evaluator: PipelineEvaluator) -> None:
    fewer = evaluator.evaluate(ALL, CASES[:2], 0, sampling=THREE)
    assert fewer.quality.actions == "FFF"
    assert fewer.quality.compute_fraction == 0.5
    assert (fewer.quality.rows["psnr"] < 60).all()
    cached = evaluator.evaluate(Policy.from_pattern("F.F"), CASES[:2], 0, sampling=THREE)
    assert cached.quality.compute_fraction < 0.5
    same = evaluator.evaluate(Policy.from_pattern("F" * STEPS), CASES[:2], 0)
    assert (same.quality.rows["psnr"] > 90).all()
    assert same.sampled is None
    traces = {one.quality.trace_sha256 for one in (fewer, cached, same)}
    assert len(traces) == 3


def test_another_scheduler_is_other_work(evaluator: PipelineEvaluator) -> None:
    own = evaluator.evaluate(HALF, CASES[:2], 0)
    other = evaluator.evaluate(HALF, CASES[:2], 0, sampling=SOLVER)
    assert own.quality.trace_sha256 != other.quality.trace_sha256
    assert own.quality.compute_fraction == other.quality.compute_fraction
    assert not np.array_equal(own.quality.rows["psnr"], other.quality.rows["psnr"])


def test_fewer_steps_are_faster_and_timed_against_the_reference(evaluator: PipelineEvaluator) -> None:
    latency = evaluator.evaluate(ALL, CASES[:2], 1, sampling=THREE).latency
    assert latency is not None
    assert len(latency.call_s) == 3
    assert latency.speedup > 1


@pytest.mark.parametrize("sampling", [THREE, SOLVER], ids=str)
def test_a_preset_of_it_fits_the_pipeline_that_is_set_so(
    evaluator: PipelineEvaluator, runner: PipelineRunner, sampling: Sampling
) -> None:
    steps = sampling.steps(STEPS)
    policy = Policy.from_pattern("F." * (steps // 2) + "F" * (steps % 2))
    measured = evaluator.evaluate(policy, CASES[:1], 0, sampling=sampling)
    runner.draw(CASES[:1])
    usual = describe_model("dit", runner.pipe.transformer, runner.pipe.scheduler, STEPS, None)
    assert measured.sampled is not None
    signature = ModelSignature.parse({**usual.to_data(), **measured.sampled})
    preset = Preset(name="other", model=signature, policy=policy)
    own = runner.pipe.scheduler
    if sampling.scheduler is not None:
        runner.pipe.scheduler = DPMSolverMultistepScheduler.from_config(own.config)
    runner.num_steps = steps
    try:
        with xslim.attach(runner.pipe, preset, strict=True) as session:
            runner.draw(CASES[:1])
    finally:
        runner.pipe.scheduler, runner.num_steps = own, STEPS
    assert session.trace.actions == policy.controller.to_data()["steps"]
    with xslim.attach(runner.pipe, preset, strict=True), pytest.raises(RequestMismatchError):
        runner.draw(CASES[:1])
    again = evaluator.evaluate(preset, CASES[:1], 0, sampling=sampling)
    assert again.quality.trace_sha256 == measured.quality.trace_sha256
    with pytest.raises((ConfigError, RequestMismatchError)):
        evaluator.evaluate(preset, CASES[:1], 0)


def test_settings_of_a_scheduler_are_taken_over_but_for_the_chosen_ones() -> None:
    own = DDIMScheduler(beta_end=0.03, clip_sample=False)
    chosen = SchedulerChoice(name="DPMSolverMultistepScheduler", config={"use_karras_sigmas": True})
    found = build_scheduler(own, chosen)
    assert isinstance(found, DPMSolverMultistepScheduler)
    assert (found.config.beta_end, found.config.use_karras_sigmas) == (0.03, True)


def test_a_solver_of_flows_takes_the_noise_levels_of_the_pipelines_own_scheduler() -> None:
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    found = build_scheduler(own, SchedulerChoice(name="UniPCMultistepScheduler"))
    assert isinstance(found, UniPCMultistepScheduler)
    assert (found.config.prediction_type, found.config.use_flow_sigmas) == ("flow_prediction", True)
    for scheduler in (own, found):
        scheduler.set_timesteps(sigmas=np.array([1.0, 0.75, 0.5, 0.25]), mu=0.8)
    torch.testing.assert_close(found.sigmas, own.sigmas, atol=1e-5, rtol=0)
    fixed = FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = build_scheduler(fixed, SchedulerChoice(name="UniPCMultistepScheduler"))
    for scheduler in (fixed, found):
        scheduler.set_timesteps(sigmas=np.array([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(found.sigmas, fixed.sigmas, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="cannot take the place of FlowMatchEulerDiscreteScheduler"):
        build_scheduler(own, SchedulerChoice(name="DDIMScheduler"))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"name": "DPMSolver"}, "'DPMSolver', which cannot take the place of DDIMScheduler; did you mean"),
        ({"name": "HeunDiscreteScheduler"}, "cannot take the place"),  # calls the model twice a step
        ({"name": "FlowMatchEulerDiscreteScheduler"}, "cannot take the place"),
        ({"name": "DDIMScheduler", "config": {"beta_stop": 1}}, "no such setting; did you mean 'beta_start'"),
        (
            {"name": "DDIMScheduler", "config": {"beta_schedule": "none"}},
            "DDIMScheduler with .* be made",
        ),
    ],
)
def test_what_cannot_take_the_place_is_refused_before_anything_is_loaded(
    chosen: dict[str, object], says: str
) -> None:
    choice = SchedulerChoice.parse(chosen)
    with pytest.raises(ConfigError, match=says) as caught:
        check_choices(MODEL, [("families.f.choices.1", choice)], "space.yaml")
    assert str(caught.value).startswith("space.yaml: families.f.choices.1: ")
    with pytest.raises(ConfigError, match=says), PipelineRunner(SPEC).sampled(Sampling(scheduler=choice)):
        pass
    check_choices("black-forest-labs/FLUX.1-dev", [("key", choice)], "space.yaml")  # known once it is loaded


def test_a_scheduler_with_steps_of_its_own_is_refused(runner: PipelineRunner) -> None:
    pndm = SchedulerChoice(name="PNDMScheduler", config={"skip_prk_steps": True})
    with pytest.raises(ConfigError, match=r"s: k: got PNDMScheduler, which takes 21 steps where 20"):
        check_choices(MODEL, [("k", pndm)], "s")
    drawing = runner.sampled(Sampling(scheduler=pndm))
    with pytest.raises(ConfigError, match=r"takes 7 steps where 6 are asked for"), drawing:
        runner.draw(CASES[:1])
    with pytest.raises(ConfigError, match="the pipeline's own scheduler; write null"):
        check_choices(MODEL, [("k", SchedulerChoice(name="DDIMScheduler"))], "s")
    task = Task(0, "evaluate", CASES[:1], HALF, 0, sampling=Sampling(scheduler=pndm))
    result = perform(Unfit(), task)
    assert "request.scheduler" in str(result.fault), "no other policy changes it: the search ends at once"


class Unfit(FormulaEvaluator):
    """Refuses as a runner does."""

    def evaluate(self, *args: object, **kwargs: object) -> Measurement:
        raise ConfigError("takes 7 steps", key="request.scheduler")


def test_a_corrector_is_fitted_as_the_preset_is_sampled(runner: PipelineRunner) -> None:
    usual = describe_model("dit", runner.pipe.transformer, None, 3, None)
    told = {"sampling": {"num_steps": 3}}
    preset = Preset(name="three", model=usual, policy=Policy.from_pattern("F.F"), provenance=told)
    rectified = fit_preset(SPEC, CASES[:2], preset, "affine", Path()).preset
    assert rectified.policy.corrector is not None
    bare = preset.model_copy(update={"provenance": {}})
    with pytest.raises(ConfigError, match="a preset of 3 steps; the experiment has 6"):
        fit_preset(SPEC, CASES[:2], bare, "affine", Path())


def test_a_batch_of_another_sampling_leaves_the_references_alone(evaluator: PipelineEvaluator) -> None:
    cases = (Case(1, 991), Case(2, 992))
    first = evaluator.evaluate(ALL, cases, 0, sampling=THREE)  # draws the references, too
    full = evaluator.evaluate(Policy.from_pattern("F" * STEPS), cases, 0)
    assert (full.quality.rows["psnr"] > 90).all()
    assert (first.quality.rows["psnr"] < 60).all()
