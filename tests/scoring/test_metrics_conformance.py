"""What every entry of METRICS must satisfy; a new metric is tested by being in the table.

Metrics are applied as a worker applies them, through `paired_values`; set metrics then as the driver does.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autotune.scoring.drawn import Drawn
from autotune.scoring.metrics import METRICS, Inputs, Kind, Metric, View
from autotune.scoring.nets.clip import ClipNet
from autotune.scoring.nets.digits import DigitsClassifier
from autotune.scoring.nets.image_reward import ImageRewardNet
from autotune.scoring.nets.loaded import MetricNets
from autotune.scoring.scores import paired_values
from tests.tiny.clip import save_clip
from xslim.errors import ConfigError

PROMPTS = ("four", "a nine", "left of", "of a")
EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
REFERENCED = pytest.mark.parametrize(
    "metric", [m for m in METRICS.values() if m.kind is not Kind.PROMPTED], ids=lambda m: m.name
)
PER_CASE = pytest.mark.parametrize(
    "metric", [m for m in METRICS.values() if m.per_case], ids=lambda m: m.name
)
SET = pytest.mark.parametrize(
    "metric", [m for m in METRICS.values() if m.kind is Kind.SET], ids=lambda m: m.name
)
Evaluate = Callable[[Metric, Tensor, Tensor], Tensor | float]


class Brightness:
    """Stands in for the authors' ImageReward model, whose package and weights are not here."""

    def score(self, prompt: str, image: object) -> float:
        return float(np.asarray(image).mean()) / 255 + len(prompt)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> MetricNets:
    torch.manual_seed(0)
    digits = DigitsClassifier().eval().requires_grad_(False)
    folder: Path = save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")
    clip = ClipNet.load(str(folder), "clip_score")
    judges = {"clip_score": clip, "image_reward": ImageRewardNet(Brightness())}
    return MetricNets(digits, {"fid": digits, "kid": digits, "cmmd": clip}, judges)


@pytest.fixture(scope="module")
def evaluate(nets: MetricNets) -> Evaluate:
    """Apply a metric to pictures and their references; nothing but its own networks is run."""

    def run(metric: Metric, a: Tensor, b: Tensor) -> Tensor | float:
        used = MetricNets(
            nets.lpips if metric.inputs is Inputs.MAPS else None,
            {name: net for name, net in nets.features.items() if name == metric.name},
            {name: judge for name, judge in nets.judges.items() if name == metric.name},
        )
        if metric.kind is Kind.SET:
            sets = [paired_values(Drawn(x, as_float(x)), Drawn(x, as_float(x)), used)[1] for x in (a, b)]
            return metric.function(*(found[metric.name] for found in sets))
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(a))]
        rows, _ = paired_values(Drawn(a, as_float(a)), Drawn(b, as_float(b)), used, prompts)
        return torch.from_numpy(rows[metric.name])

    return run


def drawn(metric: Metric) -> Tensor:
    """Smooth 8-bit blobs, so that uint8 and float hold the same pictures; or clips of them."""
    generator = torch.Generator().manual_seed(1)
    if metric.view is View.CHANGES:
        ends = torch.rand(16, 2, 1, 6, 6, generator=generator)
        shares = torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1)
        coarse = (ends[:, :1] * (1 - shares) + ends[:, 1:] * shares).flatten(0, 1)
        return smooth(coarse, 32).unflatten(0, (16, 5))
    count = 96 if metric.kind is Kind.SET else 24
    if metric.min_side > 32:
        return smooth(torch.rand(6, 1, 6, 6, generator=generator), metric.min_side)
    return smooth(torch.rand(count, 1, 6, 6, generator=generator), 32)


def smooth(coarse: Tensor, side: int) -> Tensor:
    pictures = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (pictures * 255).round().to(torch.uint8)


@pytest.fixture
def pictures(metric: Metric) -> Tensor:
    return drawn(metric)


def noisy(pictures: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(2))
    return ((pictures / 255 + sigma * noise).clamp(0, 1) * 255).round().to(torch.uint8)


def as_float(pictures: Tensor) -> Tensor:
    return pictures / 255 if pictures.dtype == torch.uint8 else pictures


def level(value: Tensor | float) -> float:
    return float(value.mean()) if isinstance(value, Tensor) else value


@EVERY
def test_shape_type_and_json(metric, pictures, evaluate):
    value = evaluate(metric, noisy(pictures, 0.1), pictures)
    if metric.per_case:
        assert value.shape == (len(pictures),)
        assert value.dtype == torch.float64
        assert value.isfinite().all()
    else:
        assert type(value) is float
        assert math.isfinite(value)


@REFERENCED
def test_identical_pictures_give_the_best_value(metric, pictures, evaluate):
    value = evaluate(metric, pictures, pictures)
    # An unbiased estimate (kid) goes beyond the best value on equal sets; nothing may stay short of it.
    values = value.tolist() if isinstance(value, Tensor) else [value]
    assert all(v == pytest.approx(metric.best, abs=1e-9) or metric.better(v, metric.best) for v in values)
    json.dumps(values, allow_nan=False)


@PER_CASE
def test_no_value_of_a_case_is_better_than_the_best(metric, pictures, evaluate):
    for other in (pictures, noisy(pictures, 0.01), pictures.flip(0), 255 - pictures):
        value = evaluate(metric, other, pictures)
        assert metric.best is None or not any(metric.better(v, metric.best) for v in value.tolist())


@EVERY
def test_uint8_and_float_agree(metric, pictures, evaluate):
    worse = noisy(pictures, 0.1)
    from_bytes = evaluate(metric, worse, pictures)
    from_floats = evaluate(metric, worse / 255, pictures / 255)
    mixed = evaluate(metric, worse, pictures / 255)
    np.testing.assert_allclose(from_bytes, from_floats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(from_bytes, mixed, rtol=1e-5, atol=1e-6)


@REFERENCED
def test_growing_noise_gets_worse_in_the_stated_direction(metric, pictures, evaluate):
    values = [level(evaluate(metric, noisy(pictures, s), pictures)) for s in (0.02, 0.06, 0.15, 0.4)]
    assert all(metric.better(a, b) for a, b in pairwise(values)), values
    assert metric.better(metric.best, values[-1])


@REFERENCED
def test_symmetric(metric, pictures, evaluate):
    worse = noisy(pictures, 0.1)
    a, b = evaluate(metric, worse, pictures), evaluate(metric, pictures, worse)
    # a relative distance has another denominator
    np.testing.assert_allclose(a, b, rtol=0.2 if metric.inputs is Inputs.LATENTS else 1e-9, atol=1e-12)


@EVERY
def test_deterministic_and_touches_no_global_random_state(metric, pictures, evaluate):
    worse = noisy(pictures, 0.1)
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = evaluate(metric, worse, pictures)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    np.testing.assert_array_equal(first, evaluate(metric, worse, pictures))


@EVERY
def test_inputs_are_not_changed(metric, pictures, evaluate):
    worse, copies = noisy(pictures, 0.1), (noisy(pictures, 0.1), pictures.clone())
    evaluate(metric, worse, pictures)
    assert torch.equal(worse, copies[0])
    assert torch.equal(pictures, copies[1])
    floats = worse / 255
    kept = floats.clone()
    evaluate(metric, floats, pictures / 255)
    assert torch.equal(floats, kept)


@PER_CASE
def test_a_case_does_not_depend_on_its_batch_mates(metric, pictures, evaluate):
    worse = noisy(pictures, 0.1)
    together = evaluate(metric, worse, pictures)
    others = worse.clone()
    others[1:] = 255 - others[1:]
    assert float(evaluate(metric, others, pictures)[0]) == pytest.approx(float(together[0]), rel=1e-5)
    step = len(PROMPTS)  # the case keeps its prompt
    for i in range(0, len(pictures), step)[:3]:
        alone = evaluate(metric, worse[i : i + 1], pictures[i : i + 1])
        assert alone.shape == (1,)
        assert float(alone) == pytest.approx(float(together[i]), rel=1e-5)


@SET
def test_order_within_a_set_does_not_matter(metric, pictures, evaluate):
    worse = noisy(pictures, 0.1)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(4))
    a, b = evaluate(metric, worse, pictures), evaluate(metric, worse[order], pictures)
    assert a == pytest.approx(b, rel=1e-5, abs=1e-9)


@SET
def test_set_sizes_may_differ(metric, pictures, evaluate):
    assert math.isfinite(evaluate(metric, noisy(pictures, 0.1)[:40], pictures))


@SET
def test_a_set_without_variance_gives_a_number(metric, pictures, evaluate):
    flat = pictures[:1].expand(20, -1, -1, -1)
    assert evaluate(metric, flat, flat) == pytest.approx(metric.best, abs=1e-6)
    assert math.isfinite(evaluate(metric, flat, pictures))


@SET
def test_one_picture_is_too_few(metric, pictures, evaluate):
    with pytest.raises(ConfigError, match="1 pictures, a set metric needs at least 2"):
        evaluate(metric, pictures[:1], pictures)


@PER_CASE
@pytest.mark.parametrize(
    "spoil",
    [lambda x: x * 1.1, lambda x: x - 0.1, lambda x: x * torch.nan, lambda x: (x * 255).to(torch.int64)],
    ids=["bright", "negative", "nan", "int64"],
)
def test_pictures_out_of_range_are_refused(metric, spoil, pictures, evaluate):
    bad = spoil(as_float(pictures).clamp(0.02, 1))
    if metric.inputs is not Inputs.LATENTS:
        with pytest.raises(ConfigError, match="got"):
            evaluate(metric, bad, pictures)


@EVERY
def test_mismatch_raises_our_error(metric, pictures, evaluate):
    if metric.kind is Kind.SET:
        with pytest.raises(ConfigError):
            metric.function(torch.rand(8, 5), torch.rand(8, 6))
        return
    for other in (pictures[:-1], pictures[..., :-1]):
        with pytest.raises(ConfigError, match="need that of images"):
            evaluate(metric, pictures, other)


@EVERY
def test_table_entry(metric):
    assert METRICS[metric.name] is metric
    assert metric.version >= 1
    assert metric.best is None or math.isfinite(metric.best)
    assert metric.name in metric.label(n=256)
    assert ("@256" in metric.label(n=256)) == (metric.kind is Kind.SET)
    assert ("_digits" in metric.label(n=256)) == metric.needs_net
    assert metric.function.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        metric.version = 2


def test_names_and_labels():
    paired = ["psnr", "ssim", "ms_ssim", "lpips", "latent_rel_l1"]
    temporal = ["psnr_temporal", "ssim_temporal", "lpips_temporal"]
    prompted, sets = ["clip_score", "image_reward"], ["fid", "kid", "cmmd"]
    assert list(METRICS) == [*paired, *temporal, *prompted, *sets]
    labels = {name: METRICS[name].label(net="digits", n=256) for name in METRICS}
    assert labels["lpips"] == "lpips_digits"
    assert labels["lpips_temporal"] == "lpips_temporal_digits"
    assert labels["psnr_temporal"] == "psnr_temporal"
    assert [labels[name] for name in sets] == ["fid_digits@256", "kid_digits@256", "cmmd_digits@256"]
    assert METRICS["fid"].label(net="inception", n=5000) == "fid_inception@5000"
    assert METRICS["clip_score"].label(net="clip-vit-base-patch16") == "clip_score_clip-vit-base-patch16"


def test_directions():
    lower = {name for name, metric in METRICS.items() if metric.direction == "minimize"}
    assert lower == {"lpips", "lpips_temporal", "latent_rel_l1", "fid", "kid", "cmmd"}


def test_a_set_metric_is_not_printed_without_its_count():
    with pytest.raises(ConfigError, match="number of pictures"):
        METRICS["fid"].label()
    assert METRICS["lpips"].label() == "lpips_digits"


def test_unknown_metric_says_what_is_near():
    with pytest.raises(ConfigError, match="psnr"):
        METRICS["psnrr"]
