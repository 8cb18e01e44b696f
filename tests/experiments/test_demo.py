"""The demo's own parts, on pictures and on clips."""

from __future__ import annotations

import pytest
import torch

from autotune.scoring.metrics import psnr
from experiments.demo import GAP, MARGIN, SCALE, quality_of, side_by_side


def test_quality_of_clips_is_the_mean_over_their_frames() -> None:
    torch.manual_seed(0)
    clips, others = torch.rand(2, 5, 1, 8, 8), torch.rand(2, 5, 1, 8, 8)
    found = quality_of(clips, others)
    assert found.shape == (2,)
    assert found[1].item() == pytest.approx(psnr(clips[1], others[1]).mean().item())
    pictures = clips[:, 0]
    assert torch.equal(quality_of(pictures, others[:, 0]), psnr(pictures, others[:, 0]))


@pytest.mark.parametrize(("shape", "shown"), [((3, 1, 8, 8), 3), ((3, 5, 1, 8, 8), 5)])
def test_the_sheet_has_three_rows(shape: tuple[int, ...], shown: int) -> None:
    sheet = side_by_side(torch.zeros(shape), torch.ones(shape), 2.0)
    side = 8 * SCALE + GAP
    assert sheet.size == (MARGIN + shown * side, 3 * side)
