"""Certification: what a tier may take."""

from __future__ import annotations

import pytest

from autotune.search.certify import Certified
from autotune.search.export import surely_holds
from autotune.search.objective import Bound
from tests.search.support import Search


@pytest.mark.parametrize(
    ("bound", "entry", "expected"),
    [
        ({"min": 30.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, False),
        ({"min": 29.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, True),
        ({"max": 31.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, False),
        ({"max": 32.0}, {"value": 30.5, "ci95": [29.5, 31.5]}, True),
    ],
)
def test_a_tier_needs_the_unfavourable_end_of_the_interval(
    bound: dict[str, float], entry: dict[str, object], expected: bool
) -> None:
    certified = Certified(None, {}, {"psnr_p5": entry}, {}, None)  # type: ignore[arg-type]
    assert surely_holds({"psnr_p5": Bound(**bound)}, certified) is expected


def test_tiers_of_a_search_hold_their_bounds_surely(tmp_path) -> None:
    search = Search(tmp_path, {"tiers": {"low": {"psnr_p5": {"min": 15.0}}}})
    tiers = search.run().summary["tiers"]
    assert tiers["low"]["holdout"]["psnr_p5"]["ci95"][0] >= 15.0
