"""The networks of the metrics with random weights, against second implementations; and what they refuse."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from autotune.scoring.metrics import judged, lpips
from autotune.scoring.nets.clip import ClipNet
from autotune.scoring.nets.digits import DigitsClassifier
from autotune.scoring.nets.inception import SIDE, Inception, tf1_resize
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.nets.lpips import LpipsNet, read_heads
from autotune.scoring.nets.spec import MetricsSpec, NetSpec
from autotune.scoring.nets.weights import check_weights
from tests.scoring.conftest import NET
from tests.tiny.clip import save_clip
from xslim.errors import ConfigError

oracle = pytest.importorskip("torchmetrics.functional.image.lpips")
VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def torchvision_features(net: str) -> nn.Sequential:
    """`features` of torchvision's AlexNet and VGG-16, written from their papers' tables."""
    if net == "alexnet":
        rows = [(3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False)]
        rows += [(384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True)]
        layers: list[nn.Module] = []
        for inputs, outputs, size, stride, padding, pooled in rows:
            layers += [nn.Conv2d(inputs, outputs, size, stride, padding), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pooled else []
        return nn.Sequential(*layers)
    layers, width = [], 3
    for entry in VGG:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, entry, 3, padding=1), nn.ReLU(inplace=True)]
            width = entry
    return nn.Sequential(*layers)


def saved(module: nn.Module, path: Path, prefix: str = "") -> tuple[str, str]:
    """Write a module's weights; return path and checksum."""
    torch.save({f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}, path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def spread(module: nn.Module) -> nn.Module:
    """Random weights that keep the scale of what passes, so that no map dies out."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            layer.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.2, generator=generator)
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def pictures(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


class PlainClip(CLIPModel):
    """Gives embeddings as tensors, as torchmetrics expects; transformers 5 wraps them."""

    def get_image_features(self, *args: object, **kwargs: object) -> Tensor:
        return super().get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args: object, **kwargs: object) -> Tensor:
        return super().get_text_features(*args, **kwargs).pooler_output


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (3, 3, 40, 64)])
@torch.no_grad()
def test_clip_score_is_torchmetrics(shape, clip_folder, capfd):
    functional = pytest.importorskip("torchmetrics.functional.multimodal")
    images = (pictures(*shape) * 255).round().to(torch.uint8)
    prompts = ["four", "a nine", "of"]
    model = PlainClip.from_pretrained(clip_folder)
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    )
    expected = [
        float(functional.clip_score(image, prompt, lambda: (model, processor)))
        for image, prompt in zip(images, prompts, strict=True)
    ]
    capfd.readouterr()
    net = ClipNet.load(str(clip_folder), "clip_score")
    assert capfd.readouterr().err == "", "no progress bar"
    # PIL rounds the resized picture to 8 bits
    atol = 0.01 if shape[-1] == 32 else 1.0
    np.testing.assert_allclose(judged(net, images, prompts), np.maximum(expected, 0), atol=atol)
    assert max(expected) > 5


@torch.no_grad()
def test_clip_prepares_pictures_as_its_preprocessor(clip_folder):
    net = ClipNet.load(str(clip_folder), "cmmd")
    smooth = F.interpolate(pictures(1, 3, 9, 12), size=(90, 120), mode="bicubic").clamp(0, 1)
    image = Image.fromarray((smooth[0] * 255).round().byte().permute(1, 2, 0).numpy())
    expected = CLIPImageProcessorPil.from_pretrained(clip_folder)(image, return_tensors="pt")["pixel_values"]
    assert (net._prepared(smooth) - expected).abs().max() < 1.5 / 255 / 0.26


@torch.no_grad()
def test_long_prompts_are_cut_and_class_labels_refused(clip_folder):
    net = ClipNet.load(str(clip_folder), "clip_score")
    images = pictures(2, 1, 32, 32)
    assert judged(net, images, ["nine left of nine left of nine"] * 2).isfinite().all()
    with pytest.raises(ConfigError, match=r"model\.prompts: got 3; scores for prompts need texts"):
        judged(net, images, ["nine", 3])
    with pytest.raises(ConfigError, match="prompts: got 0, need one for each of 2"):
        judged(net, images, [])


def test_a_folder_of_something_else_is_one_line(clip_folder, tmp_path):
    for role in ("clip_score", "cmmd"):
        key = rf"metrics\.{role}\.model: got "
        with pytest.raises(
            ConfigError, match=key + r".* which holds no config\.json; give the network's folder"
        ):
            ClipNet.load(str(tmp_path), role)
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"metrics\.cmmd\.model: got .* cannot load it"):
        ClipNet.load(str(tmp_path), "cmmd")


def test_image_reward_tells_how_to_install_it(tmp_path):
    if "ImageReward" in sys.modules:
        pytest.skip("the package is installed")
    spec = MetricsSpec(image_reward=NetSpec("image_reward", "models/reward"))
    line = (
        r"metrics\.image_reward: needs the package ImageReward: pip install image-reward; "
        r"then models/reward must hold ImageReward\.pt and med_config\.json"
    )
    for load in (spec.check, lambda: load_nets(spec)):
        with pytest.raises(ConfigError, match=line):
            load()


STAND_IN = """
class Model:
    def __init__(self, *what):
        self.what = what

    def score(self, prompt, image):
        return image.size[0] + len(prompt) + image.getpixel((0, 0))[0] / 255


def load(name, device, med_config):
    print("load checkpoint")
    return Model(name, device, med_config)
"""


def test_image_reward_calls_the_authors_package(tmp_path, monkeypatch, capsys):
    """A stand-in of the package: the real one and its weights are not here."""
    package, folder = tmp_path / "site" / "ImageReward", tmp_path / "reward"
    for made in (package, folder):
        made.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    spec = MetricsSpec(image_reward=NetSpec("image_reward", str(folder)))
    with pytest.raises(ConfigError, match=r"metrics\.image_reward\.model: got .* holds no ImageReward\.pt"):
        load_nets(spec)
    for name in ("ImageReward.pt", "med_config.json"):
        (folder / name).touch()
    net = load_nets(spec).judges["image_reward"]
    assert capsys.readouterr() == ("", "load checkpoint\n"), "stdout is for results"
    assert net._model.what == (str(folder / "ImageReward.pt"), "cpu", str(folder / "med_config.json"))
    scores = judged(net, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8), ["ab", "abc"])
    assert scores.tolist() == [10.0, 12.0]
    monkeypatch.delitem(sys.modules, "ImageReward")


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
