"""The evaluator and the profile on the trained model at six steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autotune.scoring.case import make_cases
from autotune.scoring.evaluator import EvaluatorSpec, PipelineEvaluator
from autotune.scoring.measurement import Measurement
from autotune.scoring.metrics import PSNR_CAP_DB
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.profile import TOKEN_BUDGETS, Profile
from autotune.scoring.profiling import MEASURED, take_profile
from autotune.scoring.residuals import record_residuals
from autotune.scoring.sensitivity import probe, probe_steps, sensitivity
from autotune.search.schedules import Scheduler
from autotune.search.scorer import Scorer
from tests.scoring.conftest import SPEC, STEPS
from xslim.errors import ConfigError
from xslim.policy.policy import SIGNALS, Policy, Predictor

CASES = make_cases(range(10), 3, 0, 0)[0]
FULL = Policy.from_pattern("F" * STEPS)
HALF = Policy.from_pattern("F.F.F.", start_block=0)


@pytest.fixture(scope="module")
def half(evaluator: PipelineEvaluator) -> Measurement:
    return evaluator.evaluate(HALF, CASES, timing_rounds=1)


def test_all_steps_computed_is_the_reference(evaluator: PipelineEvaluator) -> None:
    measured = evaluator.evaluate(FULL, CASES, timing_rounds=0)
    quality = measured.quality
    assert measured.latency is None
    assert quality.rows["psnr"].tolist() == [PSNR_CAP_DB] * 3
    assert quality.rows["ssim"] == pytest.approx(np.ones(3))
    assert quality.rows["lpips"] == pytest.approx(np.zeros(3), abs=1e-9)
    assert (quality.actions, quality.compute_fraction) == ("F" * STEPS, 1.0)
    baseline = evaluator.baseline(CASES, 1)
    for name in ("fid", "kid"):
        assert np.array_equal(baseline.quality.features[name], quality.features[name])
    assert baseline.quality.actions == quality.actions
    assert baseline.latency is not None
    assert baseline.latency.batch == 2


def test_skips_save_compute_and_cost_quality(half: Measurement) -> None:
    quality = half.quality
    assert quality.actions == "F.F.F."
    assert 0.5 < quality.compute_fraction < 0.55  # half of the blocks, and all of what surrounds them
    assert quality.cases == CASES
    for name, better in (("psnr", PSNR_CAP_DB), ("ssim", 1.0)):
        assert quality.rows[name].shape == (3,)
        assert (quality.rows[name] < better).all()
    assert (quality.rows["lpips"] > 0).all()
    assert quality.features["fid"].shape == (3, 64)
    assert quality.features["kid"] is quality.features["fid"]
    assert (quality.rows["latent_rel_l1"] > 0).all()
    assert set(quality.rows) == {"psnr", "ssim", "lpips", "latent_rel_l1"}, "pictures of 32 pixels"
    assert quality.held_bytes > 0
    assert half.environment["torch"]


def test_latency_is_measured_unless_the_trace_was_timed(
    evaluator: PipelineEvaluator, half: Measurement
) -> None:
    assert half.latency is not None
    assert len(half.latency.log_ratios) in (2, 4, 6)  # more rounds when the pairs disagree
    again = evaluator.evaluate(HALF, CASES, 1, frozenset({half.quality.trace_sha256}))
    assert again.latency is None
    assert again.quality.trace_sha256 == half.quality.trace_sha256
    for name, values in half.quality.rows.items():
        assert np.array_equal(again.quality.rows[name], values)


def test_the_scorer_names_what_was_measured(half: Measurement) -> None:
    scalars = Scorer(half.quality.features).scalars(half)
    rows = half.quality.rows
    assert scalars["psnr"] == pytest.approx(rows["psnr"].mean())
    assert rows["psnr"].min() <= scalars["psnr_p5"] < scalars["psnr"]
    assert scalars["lpips"] < scalars["lpips_p95"] <= rows["lpips"].max()
    assert scalars["fid"] == pytest.approx(0, abs=1e-6), "its own features are the reference"
    assert scalars["latency"] == pytest.approx(1 / scalars["speedup"])


def test_a_missing_network_is_one_line(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.net: got '.*', which holds no model\.safetensors"):
        EvaluatorSpec(SPEC, MetricsSpec.digits(str(tmp_path)), str(tmp_path)).build()


@pytest.fixture(scope="module")
def profile(runner: PipelineRunner) -> Profile:
    taken = take_profile(runner, CASES)
    few = CASES[:1]
    errors = {step: probe(runner, few, runner.draw(few), step) for step in probe_steps(STEPS)}
    return taken.with_sensitivity(sensitivity(taken, errors))


def test_inner_products_are_symmetric_and_positive(profile: Profile) -> None:
    rows = 2 * len(CASES)  # with and without guidance
    assert profile.gram.shape == (rows, STEPS, STEPS)
    for gram in profile.gram:
        assert np.allclose(gram, gram.T, rtol=1e-12)
        values = np.linalg.eigvalsh(gram)
        assert values[-1] > 0
        assert values[0] > -1e-9 * values[-1]


def test_changes_and_sensitivities_are_positive(profile: Profile) -> None:
    assert (profile.num_steps, profile.change.shape) == (STEPS, (STEPS - 1,))
    assert (profile.change > 0).all()
    assert profile.sensitivity.shape == (STEPS,)
    assert (profile.sensitivity > 0).all()


def test_sensitivity_is_measured_at_the_probes_and_lies_between_them_elsewhere(profile: Profile) -> None:
    errors = {1: 0.2, 5: 0.1}
    found = sensitivity(profile, errors)
    assert found[1] == pytest.approx(0.2 / profile.lengths[0])
    assert found[5] == pytest.approx(0.1 / profile.lengths[4])
    assert found[3] == pytest.approx(np.sqrt(found[1] * found[5])), "half way, on a logarithmic scale"
    assert found[0] == found[1], "the first step is never skipped"
    unchanged = sensitivity(profile, {1: 0.0, 5: 0.1})
    assert np.isfinite(unchanged).all()


def test_probes_are_few_and_reach_both_ends() -> None:
    assert probe_steps(STEPS) == (1, 2, 3, 4, 5)
    many = probe_steps(50)
    assert (many[0], many[-1], len(many)) == (1, 49, 12)


def test_blocks_add_up_to_the_stack(profile: Profile, runner: PipelineRunner) -> None:
    with record_residuals(runner) as recorded:
        runner.draw(CASES)
    stacked = recorded.by_step(STEPS).flatten(2)
    parts = list(recorded.by_block(STEPS, 8))
    assert torch.allclose(sum(parts), stacked, atol=1e-4), "64 tokens of 128 numbers are all kept"
    assert profile.blocks.shape == (8, STEPS, STEPS)
    own = torch.einsum("srv,trv->rst", parts[3].double(), parts[3].double()).mean(0)
    assert profile.blocks[3] == pytest.approx(own.numpy(), rel=1e-4)


def test_token_shares_grow_with_the_budget(profile: Profile) -> None:
    assert profile.tokens.shape == (STEPS - 1, len(TOKEN_BUDGETS))
    assert (np.diff(profile.tokens, axis=1) >= 0).all()
    assert (profile.tokens[0] > TOKEN_BUDGETS).all(), "the tokens that change most hold more than their share"
    assert (profile.tokens < 1).all()


def test_a_profile_is_read_back_as_it_was(profile: Profile) -> None:
    again = Profile.from_json(profile.to_json())
    for name, values in profile.signals.items():
        assert values.shape == (STEPS - 1, 2 * len(CASES))
        assert np.array_equal(again.signals[name], values, equal_nan=True)
    for name in ("gram", "sensitivity", "blocks", "tokens", "gamma"):
        assert np.array_equal(getattr(again, name), getattr(profile, name))
    assert (again.signature, again.calibration, again.jumps) == (
        profile.signature,
        profile.calibration,
        profile.jumps,
    )


def test_calibrations_never_fall(profile: Profile) -> None:
    assert set(profile.calibration) == set(SIGNALS)
    for name in MEASURED:
        x, y = profile.calibration[name].x, profile.calibration[name].y
        assert len(x) == len(y)
        assert list(x) == sorted(set(x))
        assert list(y) == sorted(y)
        assert y[-1] > 0
        assert -1 <= profile.fit[name] <= 1
    table = profile.calibration["step_table"]
    assert (table.x[0], table.x[-1], len(table.x)) == (0.0, 1.0, STEPS)
    assert table.y[1:] == pytest.approx(profile.change * STEPS, abs=1e-6)
    sizes = profile.calibration["gamma"]
    assert sizes.x == table.x
    assert np.diff(np.log(sizes.y)) == pytest.approx(np.log(profile.gamma), abs=1e-4)


def test_the_step_curve_and_the_growth_are_those_of_the_residuals(
    profile: Profile, runner: PipelineRunner
) -> None:
    with record_residuals(runner) as recorded:
        runner.draw(CASES)
    residuals = torch.stack(recorded.residuals).double()  # the runner draws all cases in one batch
    curve = (residuals[1:] - residuals[:-1]).abs().mean(dim=(1, 2, 3))
    assert profile.curve == pytest.approx(curve.numpy(), rel=1e-4)
    lengths = residuals.norm(dim=3)
    assert profile.gamma == pytest.approx((lengths[1:] / lengths[:-1]).mean(dim=(1, 2)).numpy(), rel=1e-4)
    assert len(profile.sigma_windows) == len(profile.jumps)


def test_the_signature_is_the_models(profile: Profile, runner: PipelineRunner) -> None:
    signature = profile.signature
    assert (signature.family, signature.transformer) == ("dit", "DiTTransformer2DModel")
    assert (signature.num_steps, signature.guidance_scale) == (STEPS, 1.5)
    assert signature.timesteps is not None
    assert len(signature.timesteps) == STEPS
    assert signature.height == runner.pipe.transformer.config.sample_size


def test_a_profile_survives_json(profile: Profile) -> None:
    again = Profile.from_json(profile.to_json())
    assert again.signature == profile.signature
    assert again.calibration == profile.calibration
    assert again.fit == profile.fit
    for name in ("gram", "change", "sensitivity", "curve", "gamma"):
        assert np.array_equal(getattr(again, name), getattr(profile, name))
    assert again.to_json() == profile.to_json()


def test_the_model_is_left_as_it_was(profile: Profile, runner: PipelineRunner) -> None:
    for module in runner.pipe.transformer.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_the_estimated_cost_ranks_schedules_as_the_pictures_do(
    profile: Profile, evaluator: PipelineEvaluator
) -> None:
    scheduler, hold = Scheduler(profile), Predictor()
    psnr = []
    for count in (2, 3, 5):
        steps = scheduler.computed_steps(hold, count)
        pattern = "".join("F" if step in steps else "." for step in range(STEPS))
        measured = evaluator.evaluate(Policy.from_pattern(pattern), CASES, 0)
        psnr.append(float(measured.quality.rows["psnr"].mean()))
    assert psnr == sorted(psnr)
