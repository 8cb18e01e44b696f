"""CLIP and ImageReward: against torchmetrics, and what they refuse."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from autotune.scoring.metrics import judged
from autotune.scoring.nets.clip import ClipNet
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.nets.spec import MetricsSpec, NetSpec
from tests.scoring.weights import pictures
from xslim.errors import ConfigError


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
