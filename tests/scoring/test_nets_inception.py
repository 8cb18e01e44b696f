"""The Inception of FID with random weights, against the published layout and formulas."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from autotune.scoring.nets.inception import SIDE, Inception, tf1_resize
from tests.scoring.weights import pictures, spread


def inception_convolutions() -> dict[str, tuple[int, ...]]:
    """Convolutions of Inception-v3 as published: name -> (outputs, inputs, height, width)."""
    found = {}

    def add(block: str, table: str, inputs: int = 0, width: int = 0) -> None:
        for line in table.split():
            name, *sizes = line.split(":")
            numbers = [{"i": inputs, "w": width}.get(size) or int(size) for size in sizes]
            found[f"{block}{name}"] = tuple(numbers)

    stem = "1a_3x3:32:3:3:3 2a_3x3:32:32:3:3 2b_3x3:64:32:3:3 3b_1x1:80:64:1:1 4a_3x3:192:80:3:3"
    add("Conv2d_", stem)
    a = """.branch1x1:64:i:1:1 .branch5x5_1:48:i:1:1 .branch5x5_2:64:48:5:5 .branch3x3dbl_1:64:i:1:1
        .branch3x3dbl_2:96:64:3:3 .branch3x3dbl_3:96:96:3:3 .branch_pool:w:i:1:1"""
    for block, inputs, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        add(f"Mixed_{block}", a, inputs, pooled)
    add(
        "Mixed_6a",
        """.branch3x3:384:288:3:3 .branch3x3dbl_1:64:288:1:1 .branch3x3dbl_2:96:64:3:3
        .branch3x3dbl_3:96:96:3:3""",
    )
    c = """.branch1x1:192:768:1:1 .branch7x7_1:w:768:1:1 .branch7x7_2:w:w:1:7 .branch7x7_3:192:w:7:1
        .branch7x7dbl_1:w:768:1:1 .branch7x7dbl_2:w:w:7:1 .branch7x7dbl_3:w:w:1:7
        .branch7x7dbl_4:w:w:7:1 .branch7x7dbl_5:192:w:1:7 .branch_pool:192:768:1:1"""
    for block, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        add(f"Mixed_{block}", c, width=width)
    add(
        "Mixed_7a",
        """.branch3x3_1:192:768:1:1 .branch3x3_2:320:192:3:3 .branch7x7x3_1:192:768:1:1
        .branch7x7x3_2:192:192:1:7 .branch7x7x3_3:192:192:7:1 .branch7x7x3_4:192:192:3:3""",
    )
    e = """.branch1x1:320:i:1:1 .branch3x3_1:384:i:1:1 .branch3x3_2a:384:384:1:3 .branch3x3_2b:384:384:3:1
        .branch3x3dbl_1:448:i:1:1 .branch3x3dbl_2:384:448:3:3 .branch3x3dbl_3a:384:384:1:3
        .branch3x3dbl_3b:384:384:3:1 .branch_pool:192:i:1:1"""
    for block, inputs in (("7b", 1280), ("7c", 2048)):
        add(f"Mixed_{block}", e, inputs)
    return found


@pytest.fixture(scope="module")
def inception() -> Inception:
    net = spread(Inception())
    assert isinstance(net, Inception)
    return net.requires_grad_(False)


def test_inceptions_keys_and_shapes_are_the_published_ones(inception):
    convolutions = inception_convolutions()
    assert len(convolutions) == 94
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in convolutions.items():
        expected[f"{name}.conv.weight"] = shape
        expected |= {
            f"{name}.bn.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")
        }
        expected[f"{name}.bn.num_batches_tracked"] = ()
    assert {name: tuple(tensor.shape) for name, tensor in inception.state_dict().items()} == expected
    # torchvision states 27,161,264 with its classifier (2,049,000) and its second head (3,326,696)
    assert sum(p.numel() for p in inception.parameters()) == 27_161_264 - 2_049_000 - 3_326_696


@torch.no_grad()
def test_inception_does_the_published_work_and_is_deterministic(inception):
    images = pictures(2, 3, 64, 48)
    with FlopCounterMode(display=False) as counter:
        first = inception.see(images[:1]).features
    assert counter.get_total_flops() / 2 == pytest.approx(5.71e9, rel=0.002)  # torchvision's figure
    assert first.shape == (1, 2048)
    assert torch.equal(first, inception.see(images[:1]).features)
    both = inception.see(images).features
    np.testing.assert_allclose(both[:1], first, rtol=1e-4, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3


@torch.no_grad()
def test_inceptions_pooling_branches_are_those_of_2015(inception):
    x = pictures(1, 1280, 8, 8)
    ones = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)  # the share of each window that is no padding
    pooled = inception.Mixed_7b.branch_pool(F.avg_pool2d(x, 3, 1, 1) / ones)
    np.testing.assert_allclose(inception.Mixed_7b(x)[:, -192:], pooled, atol=1e-5)
    x = pictures(1, 2048, 8, 8)
    pooled = inception.Mixed_7c.branch_pool(F.max_pool2d(x, 3, 1, 1))
    np.testing.assert_allclose(inception.Mixed_7c(x)[:, -192:], pooled, atol=1e-5)


@torch.no_grad()
def test_inception_is_torch_fidelitys(inception, tmp_path):
    """Only where torch-fidelity is installed, which `make setup` does not."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    state = {**inception.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, tmp_path / "inception.pth")
    theirs = fidelity.FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(tmp_path / "inception.pth")
    )
    images = (pictures(2, 3, 64, 48) * 255).round().to(torch.uint8)
    np.testing.assert_allclose(inception.see(images / 255).features, theirs(images)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 6), (10, 7), (299, 5), (320, 310)])
def test_the_resize_is_tensorflow_1s_formula_pixel_by_pixel(size):
    picture = pictures(1, 1, *size).double()
    found = tf1_resize(picture, SIDE)[0, 0].numpy()
    source = picture[0, 0].numpy()
    for y, x in ((0, 0), (17, 250), (298, 298), (150, 3)):
        top, left = y * size[0] / SIDE, x * size[1] / SIDE
        y0, x0 = int(np.floor(top)), int(np.floor(left))
        y1, x1 = min(y0 + 1, size[0] - 1), min(x0 + 1, size[1] - 1)
        above = source[y0, x0] + (source[y0, x1] - source[y0, x0]) * (left - x0)
        below = source[y1, x0] + (source[y1, x1] - source[y1, x0]) * (left - x0)
        assert found[y, x] == pytest.approx(above + (below - above) * (top - y0), abs=1e-12)


def test_inception_loads_the_published_layout(inception, tmp_path):
    """With the classifier of 1008 classes, and without counters of batches, as the published file is."""
    state = {k: v for k, v in inception.state_dict().items() if not k.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path / "inception.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = Inception.load(str(path), digest)
    images = pictures(1, 1, 32, 32)
    assert torch.equal(loaded.see(images).features, inception.see(images).features)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
