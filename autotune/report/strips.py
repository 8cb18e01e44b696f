"""Strips: pictures of several methods side by side at matched speeds, with maps of their differences."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.compare.document import Row
from autotune.compare.pictures import matched
from autotune.compare.recipe import OWN
from autotune.report import words
from autotune.report.sources import Search

Pixels = NDArray[np.uint8]
FOLDER, REFERENCE, CASES = "pictures", "reference", "cases.json"
SHOWN_CASES, SHOWN_FRAMES, SHOWN_PRESETS = 4, 8, 5
MAX_SIDE = 192  # pixels of an embedded picture
GAINS = (32, 16, 8, 4, 2, 1)
BRIGHT = 99.5  # percentile of the differences that the gain keeps inside the scale


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn by one method, or under one preset.

    Attributes:
        id: of the row.
        title: as shown.
        about: costs and qualities in words.
        images: [cases, frames, height, width, channels].
    """

    id: str
    title: str
    about: str
    images: Pixels


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded picture and what is said of it to those who do not see it."""

    uri: str
    alt: str


@dataclass(frozen=True, slots=True)
class Line:
    """One method's pictures, and how they differ from the uncached ones."""

    title: str
    about: str
    pictures: tuple[Picture, ...]
    differences: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """Methods at about one speed.

    Attributes:
        title: says the speed.
        lines: uncached first.
        columns: prompts and seeds, or frames.
        beside: whether the differences stand beside the pictures, not below.
    """

    title: str
    lines: tuple[Line, ...]
    columns: tuple[str, ...]
    beside: bool


@dataclass(frozen=True, slots=True)
class Strips:
    """All strips.

    Attributes:
        strips: none where there are no pictures.
        gain: of the maps of differences.
    """

    strips: tuple[Strip, ...] = ()
    gain: int = 1


def strips(search: Search) -> Strips:
    """Draw the strips from what `autotune compare`, or else the search, has kept."""
    compared, alone = search.folder / "comparison" / FOLDER, search.folder / FOLDER
    reference = _images(compared / f"{REFERENCE}.npz")
    if reference is not None and search.comparison is not None:
        groups = _matched(search.comparison.rows, compared, reference)
        if groups:
            return _strips(groups, reference, _cases(compared))
    reference = _images(alone / f"{REFERENCE}.npz")
    drawn = [] if reference is None else _of_members(search, alone, reference)
    if reference is None or not drawn:
        return Strips()
    return _strips([("the presets of this search", drawn)], reference, _cases(alone))


def _matched(rows: Sequence[Row], place: Path, reference: Pixels) -> list[tuple[str, list[Drawn]]]:
    """Methods at matched speeds, as they were drawn; rows without pictures are left out."""
    groups = []
    for strip in matched(rows):
        found = [(row, _drawn(row.id, _title(row), row.scalars, place, reference)) for row in strip.rows]
        drawn = [one for _, one in found if one is not None]
        ours = [f"{row.id} ({one.about})" for row, one in found if one is not None and row.method == OWN]
        if drawn:
            speed = ours[0] if ours else words.number("speedup", strip.speed)
            groups.append((f"about as fast as {speed}" if ours else f"at about {speed}", drawn))
    return groups


def _of_members(search: Search, place: Path, reference: Pixels) -> list[Drawn]:
    found = (_drawn(one.name, one.name, one.scalars, place, reference) for one in search.members)
    return [one for one in found if one is not None][:SHOWN_PRESETS]


def _drawn(
    id_: str, title: str, scalars: Mapping[str, float], place: Path, reference: Pixels
) -> Drawn | None:
    """What was drawn; None where it cannot be read, or has another size than the uncached pictures."""
    images = _images(place / f"{Path(id_).name}.npz")
    if images is None or images.shape != reference.shape:
        return None
    return Drawn(id_, title, _about(scalars), images)


def _title(row: Row) -> str:
    return f"{row.title} ({words.settings(row.config)})" if row.config else row.title


def _about(scalars: Mapping[str, float]) -> str:
    shown = [name for name in ("speedup", "compute_fraction", "lpips", "psnr") if name in scalars]
    names = {"speedup": "", "compute_fraction": "compute "}
    return ", ".join(f"{names.get(n, f'{n.upper()} ')}{words.number(n, scalars[n])}" for n in shown)


def _strips(groups: Sequence[tuple[str, list[Drawn]]], reference: Pixels, cases: Sequence[str]) -> Strips:
    """Shapes: reference [cases, frames, height, width, channels]."""
    clip = reference.shape[1] > 1
    picked = [0] if clip else list(range(min(SHOWN_CASES, len(reference))))
    last = reference.shape[1] - 1
    count = min(SHOWN_FRAMES, last + 1)
    frames = [round(i * last / max(1, count - 1)) for i in range(count)] if clip else [0]
    places = [(case, frame) for case in picked for frame in frames]
    labels = [cases[case] if case < len(cases) else f"case {case}" for case in picked]
    columns = [f"frame {frame}" for frame in frames] if clip else labels
    every = {one.id: one for _, group in groups for one in group}
    differences = {key: _difference(one.images, reference, places) for key, one in every.items()}
    gain = _gain(list(differences.values()))

    def line(one: Drawn) -> Line:
        maps = [_encoded(_coloured(found, gain)) for found in differences[one.id]]
        return Line(
            one.title,
            one.about,
            _pictures(one.images, one.title, places, columns),
            tuple(
                Picture(uri, f"difference of {one.title}, {c}") for uri, c in zip(maps, columns, strict=True)
            ),
        )

    uncached = Line("uncached", "the reference", _pictures(reference, "uncached", places, columns), ())
    title = f", {labels[0]}" if clip else ""
    found = tuple(
        Strip(name + title, (uncached, *(line(one) for one in group)), tuple(columns), not clip)
        for name, group in groups
    )
    return Strips(found, gain)


def _pictures(
    images: Pixels, title: str, places: Sequence[tuple[int, int]], columns: Sequence[str]
) -> tuple[Picture, ...]:
    named = zip(places, columns, strict=True)
    return tuple(Picture(_encoded(images[case, frame]), f"{title}, {name}") for (case, frame), name in named)


def _difference(images: Pixels, reference: Pixels, places: Sequence[tuple[int, int]]) -> list[NDArray[Any]]:
    """Mean over channels of |a - b|, 0 to 255, each [height, width]."""
    return [
        np.abs(images[at].astype(np.float32) - reference[at].astype(np.float32)).mean(-1) for at in places
    ]


def _gain(differences: Sequence[Sequence[NDArray[Any]]]) -> int:
    bright = float(np.percentile(np.stack([m for maps in differences for m in maps]), BRIGHT))
    return next((gain for gain in GAINS if bright * gain <= 255), 1)


def _coloured(difference: NDArray[Any], gain: int) -> Pixels:
    import matplotlib

    rgb = matplotlib.colormaps["magma"](np.clip(difference * gain / 255, 0, 1))[..., :3]
    found: Pixels = (rgb * 255).round().astype(np.uint8)
    return found


def _encoded(pixels: Pixels) -> str:
    """A picture as a data URI of a PNG. Shapes: [height, width, 1 or 3]."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _images(path: Path) -> Pixels | None:
    """Kept pictures as [cases, frames, height, width, channels]; None where none can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    images = images[:, None] if images.ndim == 4 else images
    fits = images.dtype == np.uint8 and images.ndim == 5 and images.size and images.shape[-1] in (1, 3)
    return images if fits else None


def _cases(place: Path) -> list[str]:
    """What was drawn, in words."""
    try:
        data = json.loads((place / CASES).read_text(encoding="utf-8"))
        return [f"{words.shortened(str(case['prompt']), 60)}, seed {case['seed']}" for case in data]
    except (OSError, ValueError, KeyError, TypeError):
        return []
