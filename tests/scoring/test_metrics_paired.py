"""Paired metrics against second implementations, and their edge cases."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from autotune.scoring.metrics import PSNR_CAP_DB, clip_score, latent_rel_l1, lpips, ms_ssim, psnr, ssim
from xslim.errors import ConfigError

SHAPES = [(5, 1, 32, 32), (3, 3, 24, 40), (2, 1, 11, 11)]


def pair(shape, sigma=0.1):
    generator = torch.Generator().manual_seed(sum(shape))
    reference = torch.rand(shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (reference + sigma * noise).clamp(0, 1), reference


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_scikit_images(shape):
    a, b = pair(shape)
    expected = [
        peak_signal_noise_ratio(y.numpy(), x.numpy(), data_range=1) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(psnr(a, b), expected, rtol=1e-12)


def test_psnr_of_bytes_does_not_wrap():
    reference = torch.full((1, 1, 8, 8), 250, dtype=torch.uint8)
    images = torch.full((1, 1, 8, 8), 10, dtype=torch.uint8)
    expected = 20 * math.log10(255 / 240)
    assert float(psnr(images, reference)) == pytest.approx(expected)
    assert float(psnr(reference, images)) == pytest.approx(expected)
    # An error of 16 squares to 256, which is 0 in 8 bits.
    assert float(psnr(images + 16, images)) == pytest.approx(20 * math.log10(255 / 16))


def test_psnr_is_capped_and_the_cap_is_not_reached_by_one_level_of_one_pixel():
    reference = torch.full((2, 1, 32, 32), 100, dtype=torch.uint8)
    images = reference.clone()
    images[1, 0, 3, 3] += 1
    values = psnr(images, reference)
    assert float(values[0]) == PSNR_CAP_DB
    assert float(values[1]) == pytest.approx(20 * math.log10(255) + 10 * math.log10(32 * 32))
    tiny = torch.zeros(1, 1, 8, 8)
    assert float(psnr(tiny + 1e-7, tiny)) == PSNR_CAP_DB


def test_psnr_is_per_image_not_pooled():
    a, b = pair((2, 1, 16, 16))
    a[0] = b[0]
    values = psnr(a, b)
    assert float(values[0]) == PSNR_CAP_DB
    assert float(values[1]) < 30


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_ssim_is_scikit_images(shape, sigma):
    a, b = pair(shape, sigma)
    expected = [
        structural_similarity(
            x.numpy(),
            y.numpy(),
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_torchmetrics_within_the_border(shape):
    a, b = pair(shape)
    _, image = structural_similarity_index_measure(
        a, b, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    np.testing.assert_allclose(ssim(a, b), image[..., 5:-5, 5:-5].flatten(1).mean(1), rtol=1e-9)


def test_ssim_does_not_depend_on_the_chunk(monkeypatch):
    a, b = pair((7, 1, 32, 32))
    whole = ssim(a, b)
    monkeypatch.setattr(sys.modules[ssim.__module__], "CHUNK_VALUES", 3000)
    np.testing.assert_allclose(ssim(a, b), whole, rtol=1e-12)


def test_ssim_of_flat_pictures():
    flat = torch.full((1, 1, 32, 32), 0.3)
    assert float(ssim(flat, flat)) == pytest.approx(1, abs=1e-12)
    # With no variance only the luminance term is left: (2ab + c1) / (a² + b² + c1).
    expected = (2 * 0.3 * 0.6 + 1e-4) / (0.09 + 0.36 + 1e-4)
    assert float(ssim(flat, flat * 2)) == pytest.approx(expected, abs=1e-6)


def test_ssim_refuses_pictures_smaller_than_its_window():
    small = torch.zeros(1, 1, 10, 32)
    with pytest.raises(ConfigError, match="at least 11"):
        ssim(small, small)


@pytest.mark.parametrize("function", [psnr, ssim, ms_ssim])
@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(1, 32, 32), r"\[n, c, h, w\]"),
        (torch.zeros(0, 1, 32, 32), "n > 0"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.int64), "uint8"),
        (torch.full((1, 1, 32, 32), 255.0), "clamp"),
        (torch.full((1, 1, 32, 32), -1.0), "clamp"),
        (torch.full((1, 1, 32, 32), torch.nan), "nan"),
    ],
)
def test_wrong_pictures_are_refused(function, images, match):
    with pytest.raises(ConfigError, match=match):
        function(images, images)


def test_errors_name_the_argument():
    good, bad = torch.zeros(1, 1, 32, 32), torch.full((1, 1, 32, 32), 2.0)
    with pytest.raises(ConfigError) as caught:
        psnr(good, bad)
    assert caught.value.key == "reference"


def convolved(picture, window):
    return convolve2d(picture, window, mode="valid")


def scipy_ms_ssim(x, y):
    """Wang et al. 2003 on one channel, with a window in two dimensions and SciPy's convolution."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    product = 1.0
    for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            padded = [np.pad(z, [(0, side % 2) for side in z.shape], mode="edge") for z in (x, y)]
            x, y = ((z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4 for z in padded)
        mx, my = convolved(x, window), convolved(y, window)
        vx, vy = convolved(x * x, window) - mx * mx, convolved(y * y, window) - my * my
        both = convolved(x * y, window) - mx * my
        contrast = (2 * both + 9e-4) / (vx + vy + 9e-4)
        if scale == 4:
            contrast = contrast * (2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4)
        product *= max(contrast.mean(), 0.0) ** power
    return product


@pytest.mark.parametrize(("shape", "sigma"), [((2, 1, 161, 170), 0.1), ((1, 3, 176, 163), 0.4)])
def test_ms_ssim_is_scipys(shape, sigma):
    a, b = pair(shape, sigma)
    expected = [
        np.mean([scipy_ms_ssim(u.numpy(), v.numpy()) for u, v in zip(x, y, strict=True)])
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ms_ssim(a, b), expected, rtol=1e-9)


def test_ms_ssim_is_near_torchmetrics():
    """Theirs counts windows over a mirrored border too, and takes channels together."""
    a, b = pair((3, 1, 192, 192), 0.2)
    theirs = multiscale_structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    np.testing.assert_allclose(ms_ssim(a, b), theirs, atol=0.01)


def test_ms_ssim_of_a_negative_is_0_and_no_nan():
    a, _ = pair((1, 1, 161, 161))
    assert float(ms_ssim(1 - a, a)) == 0


def test_ms_ssim_needs_more_than_160_pixels():
    small = torch.zeros(1, 1, 160, 200)
    with pytest.raises(ConfigError, match="at least 161"):
        ms_ssim(small, small)


def test_latent_distance_is_numpys():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    expected = [
        np.abs(x - y).sum() / np.abs(y).sum()
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(latent_rel_l1(a, b), expected, rtol=1e-12)
    assert float(latent_rel_l1(b * 1.5, b)[0]) == pytest.approx(0.5)


def test_latent_distance_of_zeros_is_finite():
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    assert float(latent_rel_l1(zero, zero)) == 0
    assert math.isfinite(float(latent_rel_l1(one, zero)))


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "need that of latents"),
        (torch.ones(0, 3), torch.ones(0, 3), "not empty"),
        (torch.full((1, 2), torch.nan), torch.ones(1, 2), "not finite"),
    ],
)
def test_wrong_latents_are_refused(a, b, match):
    with pytest.raises(ConfigError, match=match):
        latent_rel_l1(a, b)


def test_clip_score_is_numpys_cosine():
    generator = torch.Generator().manual_seed(4)
    a, b = (torch.randn(6, 9, generator=generator) for _ in range(2))
    x, y = a.double().numpy(), b.double().numpy()
    cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    np.testing.assert_allclose(clip_score(a, b), np.maximum(100 * cosine, 0), rtol=1e-6)
    np.testing.assert_allclose(clip_score(a, a * 3), 100.0)
    assert clip_score(a, -a).max() == 0
    with pytest.raises(ConfigError, match="need that of images"):
        clip_score(a, b[:2])


def test_lpips_with_heads_is_the_weighted_sum_of_stages():
    generator = torch.Generator().manual_seed(5)
    shapes = [(2, 4, 3, 3), (2, 6, 2, 2)]
    a, b = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2))
    heads = [torch.rand(s[1], generator=generator, dtype=torch.float64) for s in shapes]
    expected = np.zeros(2)
    for x, y, weights in zip(a, b, heads, strict=True):
        u, v = (z.numpy() / np.sqrt((z.numpy() ** 2).sum(1, keepdims=True)) for z in (x, y))
        expected += ((u - v) ** 2 * weights.numpy()[None, :, None, None]).sum(1).mean((1, 2))
    np.testing.assert_allclose(lpips(a, b, heads), expected, rtol=1e-9)


def test_lpips_is_the_formula_position_by_position():
    generator = torch.Generator().manual_seed(5)
    shapes = [(2, 4, 3, 3), (2, 6, 2, 2)]
    a = tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    b = tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    a[0][0, :, 1, 1] = 0  # a dead position
    expected = np.zeros(2)
    for x, y in zip(a, b, strict=True):
        n, _, height, width = x.shape
        for i in range(n):
            total = 0.0
            for row in range(height):
                for column in range(width):
                    u, v = x[i, :, row, column].numpy(), y[i, :, row, column].numpy()
                    u, v = (w / (np.sqrt((w * w).sum()) + 1e-10) for w in (u, v))
                    total += ((u - v) ** 2).sum()
            expected[i] += total / (height * width) / len(shapes)
    np.testing.assert_allclose(lpips(a, b), expected, rtol=1e-12)


def test_lpips_is_torchmetrics_distance_with_unit_weights():
    oracle = pytest.importorskip("torchmetrics.functional.image.lpips")
    a, b = (torch.rand(2, 5, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    difference = (oracle._normalize_tensor(a) - oracle._normalize_tensor(b)) ** 2
    expected = oracle._spatial_average(difference.sum(1, keepdim=True), keep_dim=False).flatten()
    np.testing.assert_allclose(lpips((a,), (b,)), expected, rtol=1e-5)


def test_lpips_ignores_the_scale_of_a_map_and_is_at_most_4():
    a = (torch.rand(2, 5, 4, 4),)
    assert lpips(a, (a[0] * 3,)).max() < 1e-12
    np.testing.assert_allclose(lpips(a, (-a[0],)), 4.0, rtol=1e-6)


def test_lpips_of_half_precision_maps():
    a, b = (torch.rand(2, 5, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    np.testing.assert_allclose(lpips((a.half(),), (b.half(),)), lpips((a,), (b,)), rtol=0.01)


def test_lpips_refuses_what_does_not_fit():
    maps = (torch.rand(2, 5, 4, 4),)
    for other in ((), (torch.rand(2, 5, 4, 5),), maps * 2):
        with pytest.raises(ConfigError, match="shapes"):
            lpips(maps, other)
    with pytest.raises(ConfigError, match="at least one"):
        lpips((), ())
    with pytest.raises(ConfigError, match="not finite"):
        lpips(maps, (maps[0] * torch.nan,))
