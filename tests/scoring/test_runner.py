"""Any pipeline is drawn as its own call draws it, and profiled step by step."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import Any

import pytest
import torch

import xslim
from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.loading import transformers
from autotune.scoring.profiling import take_profile
from autotune.scoring.residuals import MAX_TOKENS, Recorded
from tests.scoring.families import CALLS, CASES, REQUESTS, SHAPES, STEPS, Load, Specs
from tests.tiny import dit_pipeline
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

EVERY = pytest.mark.parametrize("name", sorted(SHAPES))


def by_hand(runner: PipelineRunner, name: str, output_type: str, **changes: Any) -> Any:
    """What the pipeline itself draws of both cases."""
    request = dict(REQUESTS[name])
    arguments = dict(request.pop("arguments"))
    if "negative_prompt" in arguments:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * 2
    return runner.pipe(
        prompt=[case.prompt for case in CASES],
        generator=[torch.Generator("cpu").manual_seed(case.seed) for case in CASES],
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        output_type=output_type,
        **{**request, **arguments, **changes},
    )[0]


@EVERY
def test_a_draw_is_the_pipelines_own(name: str, load: Load) -> None:
    runner = load(name)
    drawn = runner.draw(CASES)
    assert (tuple(drawn.images.shape), tuple(drawn.latents.shape)) == SHAPES[name]
    assert drawn.is_video is (name != "flux")
    assert torch.equal(drawn.images, by_hand(runner, name, "pt").float().clamp(0, 1))
    if name == "flux":  # the video pipelines scale their latents before they give them away
        assert torch.equal(drawn.latents, by_hand(runner, name, "latent"))
    for value in (drawn.images, drawn.latents):
        assert (value.dtype, value.device.type, value.requires_grad) == (torch.float32, "cpu", False)
        assert value.std() > 0
    assert torch.equal(runner.draw(CASES).images, drawn.images)


@EVERY
def test_cases_do_not_depend_on_their_batch(name: str, load: Load) -> None:
    runner = load(name)
    both = runner.draw(CASES)
    for i, case in enumerate(CASES):
        alone = runner.draw([case])
        assert torch.allclose(alone.images[0], both.images[i], atol=1e-4)
        assert torch.allclose(alone.latents[0], both.latents[i], atol=1e-4)


def test_the_latents_of_dit_are_those_it_decodes(load: Load) -> None:
    runner = load("dit")
    drawn = runner.draw([Case(3, 1), Case(8, 2)])
    vae = runner.pipe.vae
    with torch.no_grad():
        decoded = vae.decode(1 / vae.config.scaling_factor * drawn.latents).sample
    assert torch.equal(drawn.images, (decoded / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("name", ["dit", "flux", "hunyuan", "wan"])
def test_the_scheduler_is_left_as_it_was(name: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = load(name)
    cases = CASES if name != "dit" else (Case(1, 1),)
    runner.draw(cases)  # some schedulers set attributes of their own while they step
    scheduler = runner.pipe.scheduler
    before = set(vars(scheduler)), inspect.signature(scheduler.step)
    seen: list[Any] = []
    hook = transformers(runner.pipe)[0].register_forward_hook(
        lambda *_: seen.append(inspect.signature(scheduler.step))
    )
    runner.draw(cases)
    hook.remove()
    assert set(seen) == {before[1]}, "pipelines look at the arguments of step"
    assert "step" not in vars(scheduler)
    with monkeypatch.context() as patch:
        patch.setattr(runner.pipe.transformer, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.draw(cases)
    assert (set(vars(scheduler)), inspect.signature(scheduler.step)) == before


@pytest.mark.parametrize("name", ["flux", "hunyuan", "wan"])
def test_a_policy_sees_the_request_as_without_the_runner(name: str, load: Load) -> None:
    runner = load(name)
    plain, policy = runner.draw(CASES), Policy.from_pattern("FF.F", start_block=0)
    for pattern, action in (("FFFF", "FFFF"), ("FF.F", "FF.F")):
        with xslim.attach(runner.pipe, Policy.from_pattern(pattern, start_block=0), STEPS) as session:
            drawn = runner.draw(CASES)
        assert session.trace.actions == action
        assert session.requests[-1].mismatch is None
        assert session.trace.branches == (("cond", "uncond") if name == "wan" else ("cond",))
        assert torch.equal(drawn.images, plain.images) is (pattern == "FFFF")
    with xslim.attach(runner.pipe, policy, STEPS):
        own = by_hand(runner, name, "pt").float().clamp(0, 1)
    assert torch.equal(own, drawn.images)


@EVERY
def test_every_call_of_every_transformer_is_timed(name: str, load: Load) -> None:
    runner = load(name)
    with runner.loop_timer() as timer:
        runner.draw(CASES)
        seconds = timer.take()
    assert len(timer.calls) == STEPS * CALLS[name]
    assert sum(timer.calls) == pytest.approx(seconds)
    assert len(transformers(runner.pipe)) == (2 if name == "wan22" else 1)
    for transformer in transformers(runner.pipe):
        assert not transformer._forward_hooks


def test_guidance_is_that_of_the_call_by_default(load: Load, specs: Specs) -> None:
    assert load("flux").guidance_scale == 3.0
    runner = PipelineRunner(replace(specs["flux"], guidance_scale=None))
    assert runner.guidance_scale == 3.5
    spelt = PipelineRunner(replace(specs["flux"], guidance_scale=3.5))
    assert torch.equal(runner.draw(CASES).images, spelt.draw(CASES).images)
    assert not torch.equal(runner.draw(CASES).images, load("flux").draw(CASES).images)


def test_a_negative_prompt_is_for_every_case(specs: Specs) -> None:
    arguments = {"max_sequence_length": 8, "negative_prompt": "nine", "true_cfg_scale": 2.0}
    runner = PipelineRunner(replace(specs["flux"], arguments=arguments))
    both = runner.draw(CASES).images
    assert torch.allclose(both[:1], runner.draw(CASES[:1]).images, atol=1e-4)
    changes = {**arguments, "negative_prompt": ["nine", "nine"]}
    assert torch.equal(both, by_hand(runner, "flux", "pt", **changes).float().clamp(0, 1))


def test_labels_are_taken_by_number_or_by_name(specs: Specs, tmp_path: Path) -> None:
    pipe = dit_pipeline()
    pipe.register_to_config(id2label={"3": "tench, fish", "8": "hen"})
    pipe.labels = {"tench": 3, "fish": 3, "hen": 8}
    runner = PipelineRunner(specs["dit"])
    runner.pipe.labels = pipe.labels
    expected = runner.draw([Case(3, 1), Case(8, 2)]).images
    assert torch.equal(runner.draw([Case("fish", 1), Case("8", 2)]).images, expected)


def test_a_spec_travels_as_bytes_and_as_json(specs: Specs) -> None:
    for spec in specs.values():
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert dumps(asdict(spec))


@pytest.mark.parametrize("name", ["flux", "hunyuan", "wan"])
def test_every_family_is_profiled_step_by_step(name: str, load: Load) -> None:
    profile = take_profile(load(name), CASES)
    rows = len(CASES) * CALLS[name]
    assert profile.gram.shape == (rows, STEPS, STEPS)
    assert profile.change.shape == profile.curve.shape == (STEPS - 1,)
    assert (profile.lengths > 0).all()
    assert profile.blocks.shape[1:] == profile.gram.shape[1:]
    assert profile.signature.num_steps == STEPS
    diagonal = profile.gram.diagonal(axis1=1, axis2=2)
    assert (diagonal > 0).all()


def test_steps_shared_by_two_transformers_are_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: got a WanPipeline whose steps are shared by two"):
        take_profile(load("wan22"), CASES)


def test_residuals_of_a_long_sequence_are_sampled() -> None:
    recorded = Recorded()
    long = torch.arange(4.0 * MAX_TOKENS).reshape(1, -1, 1)
    for _ in range(4):
        recorded.add(long)
    (kept,) = {tuple(residual.shape) for residual in recorded.residuals}
    assert kept == (1, MAX_TOKENS, 1)
    assert recorded.share == 4
    assert recorded.residuals[0].mean() == pytest.approx(float(long.mean()), rel=1e-3)
    assert recorded.by_step(4).shape == (4, 1, MAX_TOKENS, 1)
    assert recorded.by_step(2).shape == (2, 2, MAX_TOKENS, 1)
    with pytest.raises(ConfigError, match=r"called 4 times in 3 steps"):
        recorded.by_step(3)
