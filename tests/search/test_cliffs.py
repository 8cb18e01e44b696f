"""Members of the front whose surroundings are far worse are not certified."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from autotune.search.certify import candidates
from autotune.search.cliffs import cliffs, surroundings
from autotune.search.space import SearchSpace
from autotune.search.study import SearchLoop
from autotune.search.trial_row import TrialRow
from tests.search.support import SPACE, Search


def row(trial: int, error: float, neighbour_of: int | None = None) -> TrialRow:
    scalars = {"compute_fraction": 0.2, "psnr": 30.0}
    return TrialRow(
        trial,
        "online",
        {},
        {},
        scalars,
        "F",
        "",
        cases=2,
        errors={"psnr": [error, error]},
        neighbour_of=neighbour_of,
    )


def test_a_cliff_is_six_decibels_beside_a_member() -> None:
    rows = [row(0, -7.0), row(1, -6.5), row(2, -7.0, 0), row(3, -5.0, 0), row(4, -5.5, 1)]
    assert cliffs(rows, "psnr") == {0: 3}
    assert cliffs(rows[:3], "psnr") == {}
    assert cliffs(rows, "lpips") == {}


def test_surroundings_lie_on_both_sides_inside_the_range() -> None:
    space = SearchSpace.parse(SPACE)
    middle = space.families["online"].middle()
    below, above = (params["controller.critical"] for _, params in surroundings(space, "online", middle))
    assert below < middle["controller.critical"] < above
    assert above - below == pytest.approx(2 * 0.03 * (1.5 - 0.02))
    edge = {**middle, "controller.critical": 1.5}
    ((family, params),) = surroundings(space, "online", edge)
    assert (family, {**params, "controller.critical": 1.5}) == ("online", edge)


def test_a_search_looks_around_its_front(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 20, "search.neighbours": 0.3})
    outcome = search.run()
    looked = [r for r in search.rows if r.source == "neighbour"]
    assert 2 <= len(looked) <= 6
    assert all(r.neighbour_of is not None and r.neighbour_of < r.trial for r in looked)
    assert outcome.summary["trials"]["complete"] == 20
    none = Search(tmp_path / "none", {"search.trials": 20, "search.neighbours": 0.0})
    none.run()
    assert not [r for r in none.rows if r.source == "neighbour"]


def test_a_member_at_a_cliff_is_not_certified(caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(0, -7.0), row(1, -6.0), row(2, -2.0, 0)]
    loop = SimpleNamespace(
        rows=rows,
        cases=(None, None),
        screen=SimpleNamespace(leading="psnr"),
        best=lambda: rows[:2],
        minimised=lambda one: (float(one.trial),),
    )
    experiment = Search(Path("nowhere"), {"tiers": {}}).experiment
    with caplog.at_level(logging.WARNING):
        chosen = candidates(cast("SearchLoop", loop), experiment)
    assert [one.trial for one in chosen] == [1]
    assert "trial 0 is not certified: trial 2 beside it is far worse" in caplog.text
