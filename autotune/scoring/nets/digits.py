"""The small digit classifier whose features serve `lpips_digits`, `fid_digits` and `kid_digits`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autotune.scoring.nets.seen import Seen

CHANNELS = (16, 32, 64)
FEATURES = 64
SIDE = 32  # of the pictures it was trained on
CELLS = 4  # the feature layer sees so many cells a side, each the mean of 2x2 positions of the last map


class ClassifierOutput(NamedTuple):
    """What one pass gives.

    Shapes: logits [n, 10]; features [n, 64]; maps: one [n, c, h, w] per stage.
    """

    logits: Tensor
    features: Tensor
    maps: tuple[Tensor, ...]


class DigitsClassifier(nn.Module):
    """Three convolution stages, a feature layer and a linear head, for grey 32x32 pictures.

    Larger pictures are seen at their own size: the feature layer slides over them in steps of 16 pixels, and
    its outputs are averaged. So a digit of 32 pixels looks the same in a larger picture. Smaller ones are
    enlarged until the shorter side has 32 pixels.
    """

    version = 1
    heads = None  # no learned weights of the maps
    side = 0  # pictures are not brought to one size

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, *CHANNELS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1),
                nn.GroupNorm(4, b),
                nn.GELU(),
                nn.Conv2d(b, b, 3, padding=1),
                nn.GELU(),
            )
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.feature = nn.Linear(CHANNELS[-1] * 16, FEATURES)
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Classify pictures.

        Shapes: images [n, 1 or 3, h, w] in [0, 1]; colour is averaged.
        """
        x = images.mean(1, keepdim=True) * 2 - 1
        height, width = x.shape[-2:]
        if min(height, width) < SIDE:
            scale = SIDE / min(height, width)
            size = (round(height * scale), round(width * scale))
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        windows = F.unfold(F.avg_pool2d(x, 2), CELLS, stride=CELLS // 2)  # [n, channels * 16, windows]
        features = F.gelu(self.feature(windows.transpose(1, 2))).mean(1)
        return ClassifierOutput(self.head(features), features, tuple(maps))

    def see(self, images: Tensor) -> Seen:
        """Return maps and features. Shapes: images [n, 1 or 3, h, w] in [0, 1]."""
        output: ClassifierOutput = self(images)
        return Seen(output.maps, output.features)

    def save(self, folder: Path) -> None:
        """Write `config.json` and fp16 `model.safetensors` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"class": type(self).__name__, "version": self.version}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        state = {key: value.half().contiguous() for key, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> DigitsClassifier:
        """Load the classifier that `save` wrote, in fp32 and evaluation mode."""
        model = cls()
        state = load_file(folder / "model.safetensors")
        model.load_state_dict({key: value.float() for key, value in state.items()})
        return model.eval().requires_grad_(False)
