"""The networks of LPIPS with random weights, against torchmetrics' own; and what they refuse."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autotune.scoring.metrics import lpips
from autotune.scoring.nets.lpips import LpipsNet, read_heads
from autotune.scoring.nets.weights import check_weights
from tests.scoring.weights import pictures, saved, spread, torchvision_features
from xslim.errors import ConfigError

oracle = pytest.importorskip("torchmetrics.functional.image.lpips")


@pytest.mark.parametrize(("net", "theirs"), [("alex", "alexnet"), ("vgg", "vgg16")])
@torch.no_grad()
def test_lpips_is_torchmetrics(net, theirs, tmp_path, monkeypatch):
    """Theirs on the same backbone; torchvision, which builds it for them, is not installed."""
    backbone = spread(torchvision_features(theirs))
    monkeypatch.setattr(oracle, "_get_tv_model_features", lambda name, pretrained: backbone)
    a, b = pictures(3, 3, 64, 80), pictures(3, 3, 64, 80, seed=3)
    expected = oracle.learned_perceptual_image_patch_similarity(a, b, net, reduction="none", normalize=True)
    ours = LpipsNet.load(net, *saved(backbone, tmp_path / "weights.pth", "features."))
    found = lpips(ours.see(a).maps, ours.see(b).maps, ours.heads)
    assert expected.min() > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("net", "numbers"),
    [("alex", (0, 3, 6, 8, 10)), ("vgg", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))],
)
def test_lpips_takes_torchvisions_keys(net, numbers):
    expected = {f"features.{n}.{part}" for n in numbers for part in ("weight", "bias")}
    assert set(LpipsNet(net).state_dict()) == expected
    widths = [64, 192, 384, 256, 256] if net == "alex" else [64, 128, 256, 512, 512]
    assert [len(head) for head in read_heads(net)] == widths


@torch.no_grad()
def test_lpips_of_grey_and_of_small_pictures():
    net = spread(LpipsNet("alex"))
    grey = pictures(2, 1, 32, 32)
    for one, three in zip(net.see(grey).maps, net.see(grey.repeat(1, 3, 1, 1)).maps, strict=True):
        assert torch.equal(one, three)
    with pytest.raises(ConfigError, match="lpips_alex needs sides of at least 31"):
        net.see(pictures(1, 3, 30, 64))
    assert all(m.numel() for m in net.see(pictures(1, 3, 31, 64)).maps)
    with pytest.raises(ConfigError, match="got 4 channels"):
        net.see(pictures(1, 4, 64, 64))


def test_the_heads_are_the_published_ones(monkeypatch):
    monkeypatch.setitem(sys.modules["autotune.scoring.nets.lpips"].HEADS_SHA256, "alex", "0" * 64)
    with pytest.raises(ConfigError, match=r"metrics\.lpips: .*alex\.pth is not version 0\.1"):
        read_heads("alex")


def test_weights_at_fault_are_one_line(tmp_path):
    path, digest = saved(torchvision_features("alexnet"), tmp_path / "alex.pth", "features.")
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    listed = tmp_path / "list.pth"
    torch.save([1, 2], listed)

    def sha(file: Path) -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()

    cases = [
        ("alex", str(tmp_path / "none.pth"), digest, "metrics.lpips.weights: got .* which is no file"),
        ("alex", path, "0" * 64, r"metrics\.lpips\.sha256: got 0000.*, but .*alex\.pth has " + digest),
        ("alex", path, None, r"metrics\.lpips\.sha256: got None; give the SHA-256"),
        ("alex", path, digest[:7], "8 to 64 hexadecimal digits"),
        ("vgg", path, digest, r"metrics\.lpips\.weights: .* where features\.0\.weight has shape"),
        ("alex", str(text), sha(text), r"metrics\.lpips\.weights: .* cannot read it"),
        ("alex", str(listed), sha(listed), "no state dictionary"),
    ]
    for net, file, checksum, match in cases:
        with pytest.raises(ConfigError, match=match) as caught:
            LpipsNet.load(net, file, checksum)
        assert "\n" not in str(caught.value)
    LpipsNet.load("alex", path, digest[:8])  # as many digits as published names carry
    check_weights(path, digest, "metrics.lpips")
