"""Pictures of a few held-out cases, kept for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from autotune.scoring.case import Case
from autotune.scoring.fingerprint import code_sha256
from autotune.scoring.lesson import Learned
from autotune.scoring.measurement import Pictures
from autotune.search.dispatch import Dispatcher
from autotune.search.files import write_text

REFERENCE_NAME = "reference"


def keep_pictures(
    dispatcher: Dispatcher,
    folder: Path,
    drawn: Mapping[str, Learned],
    batch: Sequence[Case],
    count: int,
) -> None:
    """Draw cases uncached and under some policies, and write what is not there yet.

    Args:
        dispatcher: where it runs.
        folder: of the pictures.
        drawn: name of the file -> policy and sampling.
        batch: one batch of cases, whose references are there.
        count: of its cases that are kept.
    """
    cases = batch[:count]
    wanted: dict[str, Learned | None] = {REFERENCE_NAME: None, **drawn}
    keys = {name: _key(given, cases) for name, given in wanted.items()}
    for name, given in wanted.items():
        if _kept(folder / f"{name}.npz") == keys[name]:
            continue
        if given is None:
            dispatcher.submit("draw", batch, name)
        else:
            dispatcher.submit("draw", cases, name, given.policy, sampling=given.sampling)
    while dispatcher.flying:
        for tag, result in dispatcher.wait():
            if isinstance(result.value, np.ndarray):
                write_pictures(folder, str(tag), result.value[:count], cases, keys[str(tag)])


def write_pictures(folder: Path, name: str, images: Pictures, cases: Sequence[Case], key: str = "") -> None:
    """Write `<name>.npz`, and what its cases are; the key tells what was drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", images=images, key=np.array(key))
    write_text(folder / "cases.json", json.dumps([asdict(case) for case in cases]))


def _key(given: Learned | None, cases: Sequence[Case]) -> str:
    """What pictures depend on, but for the model, which the folder is of."""
    drawn = None if given is None else [given.policy.to_data(), given.sampling.to_data()]
    facts = [code_sha256(), drawn, [asdict(case) for case in cases]]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _kept(path: Path) -> str | None:
    """The key of a file; None where there is none that can be read."""
    try:
        with np.load(path) as found:
            return str(found["key"])
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
