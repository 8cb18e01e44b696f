"""Pictures of a few held-out cases, kept for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from autotune.scoring.case import Case
from autotune.scoring.lesson import Learned
from autotune.scoring.measurement import Pictures
from autotune.search.dispatch import Dispatcher

REFERENCE_NAME = "reference"


def keep_pictures(
    dispatcher: Dispatcher, folder: Path, drawn: Mapping[str, Learned], cases: Sequence[Case]
) -> None:
    """Draw cases uncached and under some policies, and write what is not there yet.

    Args:
        dispatcher: where it runs.
        folder: of the pictures.
        drawn: name of the file -> policy and sampling.
        cases: a few.
    """
    for name, given in drawn.items():
        if not (folder / f"{name}.npz").exists():
            dispatcher.submit("draw", cases, name, given.policy, sampling=given.sampling)
    if not (folder / f"{REFERENCE_NAME}.npz").exists():
        dispatcher.submit("draw", cases, REFERENCE_NAME)
    while dispatcher.flying:
        for tag, result in dispatcher.wait():
            if isinstance(result.value, np.ndarray):
                write_pictures(folder, str(tag), result.value, cases)


def write_pictures(folder: Path, name: str, images: Pictures, cases: Sequence[Case]) -> None:
    """Write `<name>.npz`, and what its cases are."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", images=images)
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
