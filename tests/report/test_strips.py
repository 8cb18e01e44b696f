"""Strips of pictures: matched speeds, scaled differences, frames of clips, and pictures at fault."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotune.report.strips import strips
from tests.report.conftest import read
from tests.report.made import write_comparison


def test_strips_are_matched_in_speed_and_scaled_alike(folder: Path) -> None:
    write_comparison(folder)
    found = strips(read(folder))
    assert len(found.strips) == 3
    for strip, speed in zip(found.strips, ("2.00x", "3.00x", "4.50x"), strict=True):
        assert [line.title.split(" (")[0] for line in strip.lines] == [
            "uncached", "Fewer steps", "autotune", "DPCache", "TeaCache"
        ]  # fmt: skip
        assert all(line.about.startswith(speed) for line in strip.lines[1:])
        assert len(strip.columns) == 3
    # the largest difference is round(3 * 4.5) = 14 levels: 16 times fits into 255, 32 times does not
    assert found.gain == 16


def test_pictures_are_pngs_of_what_was_kept(folder: Path) -> None:
    write_comparison(folder)
    found = strips(read(folder))
    first = found.strips[0].lines[0].pictures[1]
    image = np.array(Image.open(io.BytesIO(base64.b64decode(first.uri.partition(",")[2]))))
    kept = np.load(folder / "comparison" / "pictures" / "reference.npz")["images"]
    assert (image == kept[1]).all()
    assert first.alt == "uncached, prompt 1, seed 1"


def test_clips_are_rows_of_frames(folder: Path) -> None:
    write_comparison(folder, frames=17)
    strip = strips(read(folder)).strips[0]
    assert strip.columns == tuple(f"frame {i}" for i in (0, 2, 5, 7, 9, 11, 14, 16))
    assert len(strip.lines[1].pictures) == len(strip.lines[1].differences) == 8


def test_pictures_of_the_presets_alone(folder: Path) -> None:
    place = folder / "pictures"
    shutil.rmtree(place)
    place.mkdir()
    images = np.zeros((2, 8, 8, 1), np.uint8)
    for name in ("reference", "front-00"):
        np.savez(place / f"{name}.npz", images=images)
    (strip,) = strips(read(folder)).strips
    assert [line.title for line in strip.lines] == ["uncached", "front-00"]
    assert strip.columns == ("case 0", "case 1")


@pytest.mark.parametrize("content", [b"", b"no pictures", "objects", "other size"])
def test_pictures_that_cannot_be_read_are_left_out(content: bytes | str, folder: Path) -> None:
    write_comparison(folder)
    path = folder / "comparison" / "pictures" / "autotune-3.npz"
    if content == "objects":
        np.savez(path, images=np.array([{}], dtype=object))
    elif content == "other size":
        np.savez(path, images=np.zeros((3, 8, 8, 3), np.uint8))
    else:
        path.write_bytes(content if isinstance(content, bytes) else b"")
    shown = [line.about for strip in strips(read(folder)).strips for line in strip.lines]
    assert len([about for about in shown if about.startswith("3.00x")]) < 4
