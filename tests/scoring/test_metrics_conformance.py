"""What every entry of METRICS must satisfy; a new metric is tested by being in the table."""

import dataclasses
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from autotune.scoring.metrics import METRICS, Inputs, Kind, Metric, digits_features
from autotune.scoring.nets.digits import DigitsClassifier
from xslim.errors import ConfigError

N = 96
EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
PAIRED = pytest.mark.parametrize(
    "metric", [m for m in METRICS.values() if m.kind is Kind.PAIRED], ids=lambda m: m.name
)
SET = pytest.mark.parametrize(
    "metric", [m for m in METRICS.values() if m.kind is Kind.SET], ids=lambda m: m.name
)


@pytest.fixture(scope="module")
def net() -> DigitsClassifier:
    torch.manual_seed(0)
    return DigitsClassifier().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Smooth 8-bit blobs [n, 1, 32, 32], so that uint8 and float hold the same pictures."""
    coarse = torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def noisy(pictures: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(2))
    return ((pictures / 255 + sigma * noise).clamp(0, 1) * 255).round().to(torch.uint8)


def evaluate(metric: Metric, a: Tensor, b: Tensor, net: DigitsClassifier) -> Tensor | float:
    if metric.inputs is Inputs.IMAGES:
        return metric.function(a, b)
    if metric.inputs is Inputs.FEATURES:
        return metric.function(digits_features(a, net), digits_features(b, net))
    return metric.function(net(as_float(a)).maps, net(as_float(b)).maps)


def as_float(pictures: Tensor) -> Tensor:
    return pictures / 255 if pictures.dtype == torch.uint8 else pictures


def level(value: Tensor | float) -> float:
    return float(value.mean()) if isinstance(value, Tensor) else value


@EVERY
def test_shape_type_and_json(metric, pictures, net):
    value = evaluate(metric, noisy(pictures, 0.1), pictures, net)
    if metric.kind is Kind.PAIRED:
        assert value.shape == (N,)
        assert value.dtype == torch.float64
        assert value.isfinite().all()
    else:
        assert type(value) is float
        assert math.isfinite(value)


@EVERY
def test_identical_pictures_give_the_best_value(metric, pictures, net):
    value = evaluate(metric, pictures, pictures, net)
    # An unbiased estimate (kid) goes beyond the best value on equal sets; nothing may stay short of it.
    values = value.tolist() if isinstance(value, Tensor) else [value]
    assert all(v == pytest.approx(metric.best, abs=1e-9) or metric.better(v, metric.best) for v in values)
    json.dumps(values, allow_nan=False)


@PAIRED
def test_no_paired_value_is_better_than_the_best(metric, pictures, net):
    for other in (pictures, noisy(pictures, 0.01), pictures.flip(0), 255 - pictures):
        value = evaluate(metric, other, pictures, net)
        assert not any(metric.better(v, metric.best) for v in value.tolist())


@EVERY
def test_uint8_and_float_agree(metric, pictures, net):
    worse = noisy(pictures, 0.1)
    from_bytes = evaluate(metric, worse, pictures, net)
    from_floats = evaluate(metric, worse / 255, pictures / 255, net)
    mixed = evaluate(metric, worse, pictures / 255, net)
    np.testing.assert_allclose(from_bytes, from_floats, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(from_bytes, mixed, rtol=1e-5, atol=1e-7)


@EVERY
def test_growing_noise_gets_worse_in_the_stated_direction(metric, pictures, net):
    values = [level(evaluate(metric, noisy(pictures, s), pictures, net)) for s in (0.02, 0.06, 0.15, 0.4)]
    assert all(metric.better(a, b) for a, b in pairwise(values)), values
    assert metric.better(metric.best, values[-1])


@EVERY
def test_symmetric(metric, pictures, net):
    worse = noisy(pictures, 0.1)
    a, b = evaluate(metric, worse, pictures, net), evaluate(metric, pictures, worse, net)
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@EVERY
def test_deterministic_and_touches_no_global_random_state(metric, pictures, net):
    worse = noisy(pictures, 0.1)
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = evaluate(metric, worse, pictures, net)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    np.testing.assert_array_equal(first, evaluate(metric, worse, pictures, net))


@EVERY
def test_inputs_are_not_changed(metric, pictures, net):
    worse, copies = noisy(pictures, 0.1), (noisy(pictures, 0.1), pictures.clone())
    evaluate(metric, worse, pictures, net)
    assert torch.equal(worse, copies[0])
    assert torch.equal(pictures, copies[1])
    floats = worse / 255
    kept = floats.clone()
    evaluate(metric, floats, pictures / 255, net)
    assert torch.equal(floats, kept)


@PAIRED
def test_a_picture_does_not_depend_on_its_batch_mates(metric, pictures, net):
    worse = noisy(pictures, 0.1)
    together = evaluate(metric, worse, pictures, net)
    others = worse.clone()
    others[1:] = 255 - others[1:]
    assert float(evaluate(metric, others, pictures, net)[0]) == pytest.approx(float(together[0]), rel=1e-5)
    for i in (0, 17, N - 1):
        alone = evaluate(metric, worse[i : i + 1], pictures[i : i + 1], net)
        assert alone.shape == (1,)
        assert float(alone) == pytest.approx(float(together[i]), rel=1e-5)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    shuffled = evaluate(metric, worse[order], pictures[order], net)
    np.testing.assert_allclose(shuffled, together[order], rtol=1e-5)


@SET
def test_order_within_a_set_does_not_matter(metric, pictures, net):
    worse = noisy(pictures, 0.1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    a, b = evaluate(metric, worse, pictures, net), evaluate(metric, worse[order], pictures, net)
    assert a == pytest.approx(b, rel=1e-5, abs=1e-9)


@SET
def test_set_sizes_may_differ(metric, pictures, net):
    assert math.isfinite(evaluate(metric, noisy(pictures, 0.1)[:40], pictures, net))


@EVERY
def test_mismatch_raises_our_error(metric, pictures, net):
    if metric.inputs is Inputs.IMAGES:
        bad = (pictures, pictures[:-1])
    elif metric.inputs is Inputs.MAPS:
        maps = net(as_float(pictures)).maps
        bad = (maps, maps[:-1])
    else:
        bad = (torch.rand(8, 5), torch.rand(8, 6))
    with pytest.raises(ConfigError):
        metric.function(*bad)


@EVERY
def test_table_entry(metric):
    assert METRICS[metric.name] is metric
    assert metric.version >= 1
    assert math.isfinite(metric.best)
    assert metric.name in metric.label(n=256)
    assert ("@256" in metric.label(n=256)) == (metric.kind is Kind.SET)
    assert ("_digits" in metric.label(n=256)) == (metric.inputs is not Inputs.IMAGES)
    assert metric.function.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        metric.version = 2


def test_names_and_labels():
    assert list(METRICS) == ["psnr", "ssim", "lpips", "fid", "kid"]
    labels = [METRICS[name].label(n=256) for name in METRICS]
    assert labels == ["psnr", "ssim", "lpips_digits", "fid_digits@256", "kid_digits@256"]
    assert METRICS["fid"].label(net="inception", n=5000) == "fid_inception@5000"


def test_directions():
    assert [METRICS[name].direction for name in METRICS] == ["maximize"] * 2 + ["minimize"] * 3


def test_a_set_metric_is_not_printed_without_its_count():
    with pytest.raises(ConfigError, match="number of pictures"):
        METRICS["fid"].label()
    assert METRICS["lpips"].label() == "lpips_digits"


def test_unknown_metric_says_what_is_near():
    with pytest.raises(ConfigError, match="psnr"):
        METRICS["psnrr"]
