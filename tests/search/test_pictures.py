"""Pictures that a search keeps of its front, for the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.search.support import Search


def test_the_front_is_drawn_beside_the_uncached_model(tmp_path: Path) -> None:
    front = Search(tmp_path / "run").run().summary["front"]
    folder = tmp_path / "run" / "pictures"
    names = {path.stem for path in folder.glob("*.npz")}
    assert names == {"reference", *(Path(member["preset"]).stem for member in front)}
    reference = np.load(folder / "reference.npz")["images"]
    assert reference.dtype == np.uint8
    assert len(reference) == len(json.loads((folder / "cases.json").read_text())) == 4
    assert (np.load(folder / "front-00.npz")["images"] < reference).all(), "the formula draws it darker"


def test_none_are_drawn_when_none_are_wanted(tmp_path: Path) -> None:
    changes = {"compare": {"pictures": 0}}
    Search(tmp_path / "run", changes).run()
    assert not (tmp_path / "run" / "pictures").exists()
