"""Noise levels: of a pipeline's call, and adjusted to what a policy reuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import xslim
from autotune.cli.show import print_preset
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.sampling import Sampling, SchedulerChoice, preset_sampling
from autotune.scoring.step_adjust import (
    adjusted_sigmas,
    calibrate,
    calibrated_sampling,
    relative_error,
    trust,
    unshifted,
)
from autotune.search.certificate import plan_certification
from autotune.search.family import Family
from tests.scoring import families
from xslim.errors import ConfigError, RequestMismatchError
from xslim.policy.document import read_yaml
from xslim.policy.policy import Policy
from xslim.policy.preset import ModelSignature, Preset, load_preset, save_preset
from xslim.runtime.signature import describe_model

Load = Callable[[str], PipelineRunner]
SIGMAS = (1.0, 0.8, 0.3)


def test_a_factor_by_hand() -> None:
    true = torch.tensor([[1.0, -3.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    reused = torch.tensor([[1.0, -2.0], [2.0, 5.0], [0.0, 0.0], [0.5, 0.0]])
    errors = relative_error(true, reused)
    assert errors.tolist() == [0.25, 0.75, 0.0, 1.0]
    assert trust(errors[:2].numpy()) == 0.5
    assert trust(np.array([3.0])) == 0.0


def test_equal_intervals_by_hand() -> None:
    # from 1: a whole quarter; half a quarter from .75; .625 are left for two steps; the last one ends at 0
    found = adjusted_sigmas([1.0, 0.75, 0.5, 0.25], [None, 0.5, None, 0.5])
    assert found == pytest.approx([1.0, 0.75, 0.625, 0.3125])


def test_unequal_intervals_by_hand() -> None:
    # half of .2 from .9; then .8 are left where the own levels have .7: a quarter of .3 * 8 / 7
    found = adjusted_sigmas([1.0, 0.9, 0.7, 0.4], [None, 0.5, 0.25, None])
    assert found == pytest.approx([1.0, 0.9, 0.8, 0.8 - 0.6 / 7])
    assert adjusted_sigmas([1.0, 0.9, 0.7, 0.4], [None, 1.0, 1.0, None]) == pytest.approx(
        [1.0, 0.9, 0.7, 0.4]
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_shift_is_undone(dynamic: bool) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    arguments = {"mu": 0.7} if dynamic else {}
    wanted = [1.0, 0.9, 0.55, 0.2]
    given = unshifted(scheduler, wanted, arguments)
    scheduler.set_timesteps(sigmas=given, **arguments)
    np.testing.assert_allclose(scheduler.sigmas[:4].numpy(), wanted, rtol=1e-5)
    if not dynamic:  # sigma = s x / (1 + (s - 1) x)
        np.testing.assert_allclose(given, [w / (3 - 2 * w) for w in wanted], rtol=1e-5)
    stretched = FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)
    with pytest.raises(ConfigError, match=r"request\.scheduler: got FlowMatchEuler\w+ with shift_terminal"):
        unshifted(stretched, wanted, {})


@pytest.mark.parametrize("name", ["flux", "hunyuan"])
def test_what_is_drawn_inside_has_the_noise_levels(load: Load, name: str) -> None:
    runner = load(name)
    before = runner.draw(families.CASES).images
    with runner.sampled(Sampling(sigmas=SIGMAS)):
        found = runner.draw(families.CASES).images
        assert runner.num_steps == 3
        np.testing.assert_allclose(runner.pipe.scheduler.sigmas.numpy(), [*SIGMAS, 0.0], rtol=1e-6)
    assert not torch.equal(found, before)
    assert torch.equal(runner.draw(families.CASES).images, before)


def test_noise_levels_that_nothing_takes_are_refused(runner: PipelineRunner, load: Load) -> None:
    flux = load("flux")
    karras = SchedulerChoice(name="FlowMatchEulerDiscreteScheduler", config={"use_karras_sigmas": True})
    for refused, sampling, told in (
        (runner, Sampling(sigmas=SIGMAS), r"request\.sigmas: got 3 noise levels; DiTPipeline takes none"),
        (load("wan"), Sampling(sigmas=SIGMAS), "WanPipeline takes none"),
        (
            flux,
            Sampling(sigmas=(14.0, 1.0)),
            r"request\.sigmas\.0: got 14; FlowMatchEuler.* begins at 1 at most",
        ),
        (flux, Sampling(sigmas=SIGMAS, scheduler=karras), "sets its own by use_karras_sigmas"),
    ):
        own = refused.pipe.scheduler
        with pytest.raises(ConfigError, match=told), refused.sampled(sampling):
            pass
        assert refused.pipe.scheduler is own
    with pytest.raises(ConfigError, match=r"params\.request\.sigmas: noise levels are not searched"):
        Family.parse(
            {
                "base": Policy.from_pattern("F").to_data(),
                "params": {"request.sigmas": {"type": "categorical", "choices": [None]}},
            }
        )


def test_a_preset_of_noise_levels_fits_a_request_with_them_only(load: Load) -> None:
    runner, policy = load("flux"), Policy.from_pattern("F.F")
    with runner.sampled(Sampling(sigmas=SIGMAS)):
        runner.draw(families.CASES)
        found = describe_model("flux", runner.pipe.transformer, runner.pipe.scheduler, 3, None)
        preset = Preset(name="adjusted", model=ModelSignature.parse(found.to_data()), policy=policy)
        with xslim.attach(runner.pipe, preset, strict=True) as session:
            runner.draw(families.CASES)
        assert session.trace.actions == "F.F"
    with (
        runner.sampled(Sampling(num_steps=3)),
        xslim.attach(runner.pipe, preset, strict=True),
        pytest.raises(RequestMismatchError, match="sigma of step 1"),
    ):
        runner.draw(families.CASES)


def test_factors_compare_with_what_the_runtime_gives(load: Load) -> None:
    """At the first reused step the latent of a cached run is the uncached one's."""
    runner, policy = load("flux"), Policy.from_pattern("FF.F", predictor="newton")
    outputs: list[torch.Tensor] = []
    handle = runner.pipe.transformer.register_forward_hook(lambda m, a, o: outputs.append(o[0].clone()))
    try:
        runner.draw(families.CASES)
        with xslim.attach(runner.pipe, policy, num_steps=4):
            runner.draw(families.CASES)
    finally:
        handle.remove()
    expected = trust(relative_error(outputs[2], outputs[6]).numpy())
    found = calibrate(runner, families.CASES, policy)
    assert [f is None for f in found] == [True, True, False, True]
    assert found[2] == pytest.approx(expected, rel=1e-4)
    assert 0 < expected < 1


def test_a_sampling_is_adjusted(load: Load) -> None:
    runner, policy = load("flux"), Policy.from_pattern("FF.F")
    factor = calibrate(runner, families.CASES, policy)[2]
    own = runner.pipe.scheduler.sigmas.tolist()
    found = calibrated_sampling(runner, families.CASES, policy)
    assert found.num_steps == 4
    with runner.sampled(found):
        runner.draw(families.CASES)
        adjusted = runner.pipe.scheduler.sigmas.tolist()
    assert adjusted[:3] == pytest.approx(own[:3], rel=1e-4)
    assert factor is not None
    assert own[2] - adjusted[3] == pytest.approx(factor * (own[2] - own[3]), rel=1e-3)
    with pytest.raises(ConfigError, match="WanPipeline, which sets its scheduler by a number of steps"):
        calibrated_sampling(load("wan"), families.CASES, policy)


def test_every_call_of_a_step_has_a_history_of_its_own(load: Load) -> None:
    runner = load("wan")  # guidance in two calls a step
    found = calibrate(runner, families.CASES, Policy.from_pattern("F.FF"))
    assert found[1] is not None
    assert 0 < found[1] <= 1


def test_a_preset_tells_its_noise_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as the reference has steps: the request is another one all the same."""
    told = {"sampling": {"sigmas": list(SIGMAS)}, "experiment": {"name": "mine", "model": {"num_steps": 3}}}
    signature = {"family": "flux", "transformer": "FluxTransformer2DModel", "num_steps": 3}
    preset = Preset.parse(
        {"name": "adjusted", "model": signature, "policy": Policy.from_pattern("F.F"), "provenance": told}
    )
    path = tmp_path / "adjusted.yaml"
    save_preset(preset, path)
    assert preset_sampling(load_preset(path)) == Sampling(sigmas=SIGMAS)
    print_preset(load_preset(path))
    assert "sampling  3 steps, sigmas 1 0.8 0.3, unlike the reference" in capsys.readouterr().out
    data = read_yaml("experiments/flux-digits.yaml")
    assert isinstance(data, dict)
    recipe = {
        **data,
        "search_space": "search_spaces/flux-digits.yaml",
        "model": {**data["model"], "num_steps": 3},
    }
    kept = preset.model_copy(update={"provenance": {**told, "experiment": recipe}})
    save_preset(kept, path)
    plan = plan_certification(str(path))
    assert plan.sampling == Sampling(sigmas=SIGMAS)
    assert plan.experiment.model.num_steps == 3
