"""The networks of the metrics together, and the digit classifier."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from autotune.scoring.nets.digits import DigitsClassifier
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.nets.lpips import LpipsNet
from autotune.scoring.nets.spec import MetricsSpec, NetSpec
from tests.scoring.conftest import NET
from tests.scoring.weights import pictures, saved, spread, torchvision_features


def test_networks_are_described_in_little_and_loaded_once(clip_folder, tmp_path):
    path, digest = saved(spread(torchvision_features("alexnet")), tmp_path / "alex.pth", "features.")
    clip = NetSpec("clip", str(clip_folder))
    spec = MetricsSpec(
        lpips=NetSpec("alex", path, digest), fid=NetSpec("digits", NET), cmmd=clip, clip_score=clip
    )
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert len(pickle.dumps(spec)) < 2000
    names = {"lpips": "alex", "lpips_temporal": "alex", "fid": "digits", "kid": "digits"}
    assert spec.names() == {**names, "cmmd": "tiny-clip", "clip_score": "tiny-clip"}
    nets = load_nets(spec)
    assert nets.features["cmmd"] is nets.judges["clip_score"]
    assert nets.features["fid"] is nets.features["kid"]
    assert isinstance(nets.lpips, LpipsNet)
    spec.check()
    relative = MetricsSpec.digits("somewhere").absolute()
    assert Path(relative.lpips.path).is_absolute()


@torch.no_grad()
def test_the_classifier_takes_pictures_of_any_size():
    net = DigitsClassifier.load(Path(NET))
    digits = pictures(6, 1, 32, 32)
    alone = net(digits)
    pooled = F.adaptive_avg_pool2d(alone.maps[-1], 4).flatten(1)
    np.testing.assert_allclose(alone.features, F.gelu(net.feature(pooled)), atol=1e-5)
    canvas = torch.zeros(6, 1, 64, 64)
    canvas[:, :, 16:48, 16:48] = digits
    found = net(canvas)
    assert [m.shape[-1] for m in found.maps] == [64, 32, 16]
    assert found.features.shape == (6, 64)
    for shape in ((2, 1, 40, 32), (2, 3, 8, 12), (2, 1, 33, 47), (2, 1, 31, 64)):
        assert net(pictures(*shape)).features.isfinite().all()
