"""The autoencoders' trainer: it learns, scales its latents, and resumes to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.training import run, vae, video_vae
from experiments.training.clips import CANVAS, FRAMES


def test_a_resumed_run_ends_at_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0)
    pictures = vae.digits()
    whole = vae.train(pictures, tmp_path / "whole", steps=4, batch=4, seed=0)

    class KilledError(Exception):
        pass

    calls = 0

    def stops(count: int) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # one picture tells the size, then a batch a step
            raise KilledError
        return pictures(count)

    with pytest.raises(KilledError):
        vae.train(stops, tmp_path / "killed", steps=4, batch=4, seed=0)
    resumed = vae.train(pictures, tmp_path / "killed", steps=4, batch=4, seed=1)
    once, twice = whole.state_dict(), resumed.state_dict()
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert whole.config.scaling_factor == resumed.config.scaling_factor
    assert not resumed.training


def test_pictures_are_learnt_and_latents_scaled(tmp_path: Path) -> None:
    pictures = vae.digits()
    trained = vae.train(pictures, tmp_path, steps=40, batch=16, seed=0)
    torch.manual_seed(1)
    x = pictures(128)
    with torch.no_grad():
        latents = trained.encode(x).latent_dist.mean
        error = (trained.decode(latents).sample - x).square().mean()
    assert error < 0.5 * x.var()
    scaled = (latents - trained.config.shift_factor) * trained.config.scaling_factor
    assert scaled.mean().item() == pytest.approx(0, abs=0.1)
    assert scaled.std().item() == pytest.approx(1, abs=0.1)


def test_clips_are_compressed_in_time() -> None:
    model = video_vae.build().eval()
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 1, FRAMES, CANVAS, CANVAS)).latent_dist.mean
        assert latents.shape == (1, 8, 3, 8, 8)
        assert model.decode(latents).sample.shape == (1, 1, FRAMES, CANVAS, CANVAS)
