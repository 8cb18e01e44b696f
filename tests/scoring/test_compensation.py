"""Learned correctors: the identity at first, better on what was not seen, saved with a preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.scoring import compensation
from autotune.scoring.case import Case
from autotune.scoring.compensation import save_compensation, train
from autotune.scoring.rectify import fit_corrector, prediction_error
from autotune.scoring.rectify_preset import fit_preset
from tests.scoring.conftest import SPEC
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.prediction import Mlp
from xslim.policy.preset import Preset, load_preset, save_preset

HOLD = Policy.from_pattern("F.F.")


def curved(seed: int, scale: float) -> NDArray[np.float32]:
    """Residuals whose second step is no affine map of the first, in units of a scale."""
    first = np.random.default_rng(seed).normal(size=(4, 64, 6))
    bent = first + 0.5 * np.sign(first - first.mean(-1, keepdims=True))
    return (scale * np.stack([first, bent, first, bent], 1)).astype(np.float32)


def corrected(residuals: NDArray[np.float32], folder: Path, steps: int) -> Policy:
    mlp = save_compensation(train(residuals, HOLD, steps), folder / "g.safetensors")
    return HOLD.model_copy(update={"corrector": mlp})


def test_it_begins_as_the_identity_and_is_the_same_for_a_seed() -> None:
    residuals = curved(0, 1.0)
    state = torch.get_rng_state()
    first, again, other = (train(residuals, HOLD, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["up.weight"], other["up.weight"])
    start = train(residuals, HOLD, 0)
    assert not start["down.weight"].any()
    assert not start["down.bias"].any()
    assert start["up.weight"].shape == (12, 6)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_bent_error_falls_below_what_a_line_leaves(tmp_path: Path, scale: float) -> None:
    seen, unseen = curved(0, scale), curved(1, scale)
    line = HOLD.model_copy(update={"corrector": fit_corrector(seen, HOLD, per_channel=True)})
    before, straight, after = (
        prediction_error(unseen, p).mean() / scale**2 for p in (HOLD, line, corrected(seen, tmp_path, 300))
    )
    assert after < 0.8 * straight < straight < before


def test_a_policy_that_skips_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="controller: skips no step"):
        train(curved(0, 1.0), Policy.from_pattern("FFFF"))


def test_a_preset_keeps_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation, "TOKENS", 128)
    signature = {"family": "dit", "transformer": "DiTTransformer2DModel", "num_steps": 6}
    preset = Preset.parse({"name": "mine", "model": signature, "policy": Policy.from_pattern("FF..F.")})
    path = tmp_path / "rectified.safetensors"
    found = fit_preset(replace(SPEC, num_steps=6), [Case(i, i) for i in range(4)], preset, "mlp", path)
    assert 0 < found.after < found.before
    save_preset(found.preset, tmp_path / "rectified.yaml")
    assert "weights: rectified.safetensors" in (tmp_path / "rectified.yaml").read_text()
    loaded = load_preset(tmp_path / "rectified.yaml")
    assert isinstance(loaded.policy.corrector, Mlp)
    assert loaded.policy.corrector.weights == str(path)
