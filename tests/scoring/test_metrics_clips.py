"""Metrics of clips and latents as a worker forms them, and what is absent where it does not apply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autotune.scoring import scores
from autotune.scoring.drawn import Drawn
from autotune.scoring.metrics import METRICS, PSNR_CAP_DB, Kind, ReferenceSet, lpips, psnr, ssim
from autotune.scoring.nets.digits import DigitsClassifier
from autotune.scoring.nets.loaded import MetricNets
from autotune.scoring.scores import joined, paired_values, set_values, set_warnings
from tests.scoring.conftest import NET
from xslim.errors import ConfigError

CLIPS, FRAMES = 3, 5


@pytest.fixture(scope="module")
def nets() -> MetricNets:
    digits = DigitsClassifier.load(Path(NET))
    return MetricNets(digits, {"fid": digits, "kid": digits})


def clips(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(CLIPS, FRAMES, 1, side, side, generator=torch.Generator().manual_seed(seed))


def drawn(images: Tensor) -> Drawn:
    return Drawn(images, images.flatten(1))


def changed(images: Tensor) -> Tensor:
    return (images[:, 1:] - images[:, :-1] + 1) / 2


def test_a_clips_value_is_the_mean_over_its_frames(nets: MetricNets) -> None:
    a, b = clips(), clips(1)
    rows, features = paired_values(drawn(a), drawn(b), nets)
    for name, function in (("psnr", psnr), ("ssim", ssim)):
        expected = np.stack([function(a[:, t], b[:, t]) for t in range(FRAMES)]).mean(0)
        np.testing.assert_allclose(rows[name], expected, rtol=1e-6)
        moved = np.stack([function(changed(a)[:, t], changed(b)[:, t]) for t in range(FRAMES - 1)]).mean(0)
        np.testing.assert_allclose(rows[f"{name}_temporal"], moved, rtol=1e-5)
    net = nets.lpips
    assert net is not None
    with torch.no_grad():
        expected = np.stack([lpips(net.see(a[:, t]).maps, net.see(b[:, t]).maps) for t in range(FRAMES)])
        mean = torch.stack([net.see(a[:, t]).features for t in range(FRAMES)]).mean(0)  # type: ignore[misc]
    np.testing.assert_allclose(rows["lpips"], expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(features["fid"], mean, rtol=1e-4, atol=1e-6)
    assert features["kid"] is features["fid"]
    assert set(rows) == {
        "psnr", "ssim", "lpips", "latent_rel_l1", "psnr_temporal", "ssim_temporal", "lpips_temporal"
    }  # fmt: skip


def test_an_error_that_stands_still_is_seen_in_frames_and_not_in_their_changes(nets: MetricNets) -> None:
    b = clips() / 2
    a = b + 0.1
    rows, _ = paired_values(drawn(a), drawn(b), nets)
    assert rows["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert (rows["psnr_temporal"] > 99).all()
    assert rows["lpips_temporal"].max() < 1e-4 < rows["lpips"].min()
    flicker = b.clone()
    flicker[:, ::2] += 0.1
    rows, _ = paired_values(drawn(flicker), drawn(b), nets)
    # every change is wrong by 0.1, half of it in a picture of changes
    assert rows["psnr_temporal"] == pytest.approx(20 + 20 * np.log10(2), abs=1e-3)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_values_do_not_depend_on_the_chunk(
    size: int, nets: MetricNets, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = drawn(clips()), drawn(clips(1))
    whole = paired_values(a, b, nets)
    monkeypatch.setattr(scores, "CHUNK_PIXELS", size * 32 * 32)
    pieces = paired_values(a, b, nets)
    for one, other in zip(whole, pieces, strict=True):
        assert set(one) == set(other)
        for name, values in one.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-7)


def test_what_does_not_apply_is_absent(nets: MetricNets) -> None:
    def names(images: Tensor, used: MetricNets) -> set[str]:
        rows, features = paired_values(drawn(images), drawn(images), used)
        assert all(np.isfinite(values).all() for values in (*rows.values(), *features.values()))
        return {*rows, *features}

    pictures = {"psnr", "ssim", "lpips", "latent_rel_l1", "fid", "kid"}
    assert names(torch.rand(2, 1, 32, 32), nets) == pictures
    assert names(torch.rand(2, 1, 1, 32, 32), nets) == pictures, "one frame does not change"
    assert names(torch.rand(1, 3, 161, 161), nets) == {*pictures, "ms_ssim"}
    assert names(torch.rand(2, 1, 8, 8), nets) == pictures - {"ssim"}
    assert names(torch.rand(2, 1, 32, 32), MetricNets()) == {"psnr", "ssim", "latent_rel_l1"}
    without = Drawn(torch.rand(2, 1, 32, 32), torch.zeros(2, 0))
    assert "latent_rel_l1" not in paired_values(without, without, MetricNets())[0]


def test_the_classifier_follows_drift_in_pictures_of_64_pixels(nets: MetricNets) -> None:
    """Two blobs on a canvas, as the pictures of flux-digits are."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(48, 1, 12, 12, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    noise = torch.randn(images.shape, generator=generator)
    found = []
    for sigma in (0.0, 0.05, 0.15, 0.4):
        worse = (images + sigma * noise).clamp(0, 1)
        rows, features = paired_values(drawn(worse), drawn(images), nets)
        if not sigma:
            reference = {name: ReferenceSet(values) for name, values in features.items()}
        found.append((rows["lpips"].mean(), *set_values(features, reference).values()))
    for values in zip(*found, strict=True):
        assert list(values) == sorted(values)


def test_shapes_that_differ_are_refused(nets: MetricNets) -> None:
    for other in (clips()[:, :-1], clips()[:-1], clips(side=30), clips()[:, 0]):
        with pytest.raises(ConfigError, match="reference: got shape"):
            paired_values(drawn(clips()), drawn(other), nets)
    with pytest.raises(ConfigError, match="reference: got shape"):
        paired_values(Drawn(clips(), torch.ones(3, 4)), Drawn(clips(), torch.ones(3, 5)), nets)
    with pytest.raises(ConfigError, match=r"need \[0, 1\]"):
        paired_values(drawn(clips() * 2), drawn(clips()), nets)


def test_batches_are_joined_and_shared_features_stay_shared(nets: MetricNets) -> None:
    a, b = clips(), clips(1)
    whole = paired_values(drawn(a), drawn(b), nets)
    parts = [paired_values(drawn(a[i : i + 2]), drawn(b[i : i + 2]), nets) for i in (0, 2)]
    rows, features = (joined([part[i] for part in parts]) for i in (0, 1))
    for name, values in whole[0].items():
        np.testing.assert_allclose(rows[name], values, rtol=1e-4, atol=1e-7)
    assert features["fid"] is features["kid"]
    assert features["fid"].shape == whole[1]["fid"].shape


def test_the_uncached_output_against_itself_is_the_best(nets: MetricNets) -> None:
    rows, _ = paired_values(drawn(clips()), drawn(clips()), nets)
    for name, values in rows.items():
        assert values == pytest.approx(METRICS[name].best, abs=1e-9)
    assert rows["psnr_temporal"].tolist() == [PSNR_CAP_DB] * CLIPS


def test_set_metrics_are_formed_of_what_there_is() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4))
    found = set_values({"fid": rows, "cmmd": rows}, {"fid": ReferenceSet(rows), "kid": ReferenceSet(rows)})
    assert set(found) == {"fid"}
    assert set(set_values(dict.fromkeys(("fid", "kid", "cmmd"), rows), dict.fromkeys(METRICS, rows))) == {
        name for name, metric in METRICS.items() if metric.kind is Kind.SET
    }


def test_few_or_equal_pictures_are_warned_of() -> None:
    labels = {"fid": "fid_digits@20", "kid": "kid_digits@20"}
    rows = np.random.default_rng(0).normal(size=(20, 4))
    flat = np.ones((20, 4))
    assert set_warnings({"kid": rows}, labels) == []
    assert set_warnings({"fid": rows, "kid": rows}, labels) == [
        "fid_digits@20: below 2000 images the value is mostly bias"
    ]
    lines = set_warnings({"kid": flat}, labels)
    assert lines == ["kid_digits@20: all features are equal; check the pictures and the network"]
    assert all(
        np.isfinite(v) for v in set_values({"fid": flat, "kid": flat}, {"fid": rows, "kid": flat}).values()
    )
