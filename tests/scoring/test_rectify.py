"""Correctors that are fitted: exact where the error is affine, better on samples that were not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.rectify import fit_corrector, prediction_error, record
from autotune.scoring.rectify_preset import fit_preset
from tests.scoring.conftest import SPEC
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.prediction import Affine
from xslim.policy.preset import Preset

STEPS = 16
PATTERN = "FF..F..F...F...F"


def corrected(policy: Policy, corrector: Affine) -> Policy:
    return policy.model_copy(update={"corrector": corrector})


def affine_steps(per_channel: bool) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Residuals of which step 1 is an affine map of step 0, and the map, [dim]."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=(3, 7, 5))
    gain, shift = rng.normal(size=(2, 5)) if per_channel else (np.full(5, 1.7), np.full(5, -0.4))
    return np.stack([first, gain * first + shift], axis=1).astype(np.float32), gain, shift


@pytest.mark.parametrize("per_channel", [False, True])
def test_an_affine_error_is_taken_off_exactly(per_channel: bool) -> None:
    residuals, gain, shift = affine_steps(per_channel)
    policy = Policy.from_pattern("F.")
    found = fit_corrector(residuals, policy, per_channel)
    assert found.slope[0] == found.offset[0] == 0.0
    assert found.channels == (5 if per_channel else None)
    # the held value is x, the truth gain x + shift, so the error (1 - gain) x - shift
    np.testing.assert_allclose(np.broadcast_to(found.slope[1], 5), 1 - gain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.broadcast_to(found.offset[1], 5), -shift, rtol=1e-4, atol=1e-5)
    assert prediction_error(residuals, policy)[1] > 0.1
    assert prediction_error(residuals, corrected(policy, found))[1] < 1e-9


def test_one_line_for_all_does_not_fit_what_differs_by_channel() -> None:
    residuals, _, _ = affine_steps(per_channel=True)
    policy = Policy.from_pattern("F.")
    apart, together = (fit_corrector(residuals, policy, per_channel) for per_channel in (True, False))
    errors = [prediction_error(residuals, corrected(policy, found))[1] for found in (apart, together)]
    assert errors[0] < 1e-9 < 1e-2 < errors[1] < prediction_error(residuals, policy)[1]


def test_no_line_is_better_on_what_was_fitted() -> None:
    residuals = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    policy = Policy.from_pattern("FF..", predictor="newton")
    found = fit_corrector(residuals, policy)
    best = prediction_error(residuals, corrected(policy, found))
    for nudge in (0.99, 1.01):
        for key in ("slope", "offset"):
            entries = tuple(nudge * entry for entry in getattr(found, key))
            worse = prediction_error(residuals, corrected(policy, found.model_copy(update={key: entries})))
            assert (worse[2:] > best[2:]).all()


def test_an_old_corrector_and_steps_that_never_change_are_no_trouble() -> None:
    residuals = np.ones((2, 4, 3, 2), dtype=np.float32)
    residuals[:, 2:] = 3.0
    policy = Policy.from_pattern("F.F.")
    for start in (policy, corrected(policy, Affine(slope=(9.0,) * 4, offset=(9.0,) * 4))):
        found = fit_corrector(residuals, start, per_channel=True)
        assert found == Affine(
            slope=(0.0, (0.0, 0.0), 0.0, (0.0, 0.0)), offset=(0.0, (0.0, 0.0), 0.0, (0.0, 0.0))
        )
    assert fit_corrector(residuals, Policy.from_pattern("F...")).offset == (0.0, 0.0, -2.0, -2.0)


@pytest.mark.parametrize(
    ("controller", "told"),
    [
        ({"kind": "pattern", "steps": "F.."}, "3 steps"),
        ({"kind": "table", "blocks": [[1, 1]]}, "1 steps"),
        ({"kind": "dual-threshold", "critical": 0.1}, "one that decides online"),
    ],
)
def test_another_schedule_is_refused(controller: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=f"controller: got {told}; give a static one of 2 steps"):
        fit_corrector(np.ones((1, 2, 3, 4), dtype=np.float32), Policy.parse({"controller": controller}))


def test_every_static_schedule_of_the_same_skips_is_fitted_alike() -> None:
    residuals = np.random.default_rng(1).normal(size=(2, 4, 3, 2)).astype(np.float32)
    found = [
        fit_corrector(residuals, Policy.parse({"controller": controller}))
        for controller in (
            {"kind": "pattern", "steps": "F.F."},
            {"kind": "interval", "every": 2},
            {"kind": "table", "blocks": [[1, 1], [0, 0], [0, 1], [0, 0]]},  # a refresh counts as computed
        )
    ]
    assert found[0].slope[1] != 0.0
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def recorded() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Residuals of the trained model: of some labels and noise to fit on, of others to hold out."""
    runner = PipelineRunner(replace(SPEC, num_steps=STEPS, batch=6))
    seen, unseen = ([Case(i, i) for i in range(6)], [Case(9 - i, 100 + i) for i in range(6)])
    return record(runner, seen), record(runner, unseen)


@pytest.mark.parametrize("kind", ["hold", "newton", "taylor"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_error_on_unseen_noise_and_labels_falls(
    recorded: tuple[NDArray[np.float32], NDArray[np.float32]], kind: str, per_channel: bool
) -> None:
    seen, unseen = recorded
    policy = Policy.from_pattern(PATTERN, predictor=kind)
    found = fit_corrector(seen, policy, per_channel)
    before, after = prediction_error(unseen, policy), prediction_error(unseen, corrected(policy, found))
    skipped = [step for step, letter in enumerate(PATTERN) if letter == "."]
    assert (after[skipped] < before[skipped]).all()
    assert after.sum() < (0.45 if per_channel else 0.7) * before.sum()


def test_a_preset_is_rectified_and_loses_its_evidence() -> None:
    signature = {"family": "dit", "transformer": "DiTTransformer2DModel", "num_steps": 6}
    preset = Preset.parse(
        {
            "schema_version": 1,
            "name": "mine",
            "model": signature,
            "policy": Policy.from_pattern("FF..F.").to_data(),
            "quality": {"bounds": {"psnr_p5": 30.0}},
        }
    )
    cases = [Case(i, i) for i in range(4)]
    found = fit_preset(replace(SPEC, num_steps=6), cases, preset, "per-channel", Path())
    assert 0 < found.after < found.before
    assert found.preset.name == "mine-rectified"
    assert found.preset.quality.bounds == {}
    assert Preset.parse(found.preset.to_data()) == found.preset
    with pytest.raises(ConfigError, match="of 6 steps; the experiment has 7"):
        fit_preset(replace(SPEC, num_steps=7), cases, preset, "per-channel", Path())
    with pytest.raises(ConfigError, match=r"cases\.search"):
        fit_preset(replace(SPEC, num_steps=6), cases[:1], preset, "per-channel", Path())
