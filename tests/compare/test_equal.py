"""Methods at equal quality and speed, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autotune.compare.equal import (
    at_equal_quality,
    at_equal_speed,
    cost_at,
    curve,
    error_at,
    lead,
    tables,
    volumes,
)
from autotune.compare.printed import leads


def row(method: str, fraction: float, lpips: float, speedup: float | None = None, **config: Any) -> dict:
    return {
        "method": method,
        "config": config,
        "compute_fraction": fraction,
        "speedup": speedup,
        "metrics": {"lpips": lpips},
    }


def test_a_curve_leaves_out_what_is_beaten() -> None:
    assert curve([(0.5, 0.1), (0.4, 0.2), (0.6, 0.15), (0.5, 0.1)]) == [(0.4, 0.2), (0.5, 0.1)]


def test_between_two_rows_the_cost_is_straight_in_logarithms() -> None:
    points = [(0.2, 0.1), (0.8, 0.001)]
    assert cost_at(points, 0.01) == pytest.approx(math.sqrt(0.2 * 0.8))  # half way in both logarithms
    assert error_at(points, 0.4) == pytest.approx(0.01)
    assert cost_at(points, 0.1) == pytest.approx(0.2)
    assert cost_at(points, 0.001) == pytest.approx(0.8)


def test_nothing_is_extrapolated() -> None:
    points = [(0.2, 0.1), (0.8, 0.001)]
    assert cost_at(points, 0.0005) is None, "it is never so good"
    assert cost_at(points, 0.5) == 0.2, "its cheapest row is better than asked for"
    assert error_at(points, 0.1) is None, "it is never so cheap"
    assert error_at(points, 0.9) == 0.001


def test_an_exact_picture_has_a_cost_and_does_not_bend_the_curve() -> None:
    exact, nearly = [(0.3, 0.05), (1.0, 0.0)], [(0.3, 0.05), (1.0, 1e-6)]
    assert cost_at(exact, 0.0) == pytest.approx(1.0)
    assert cost_at(exact, 0.02) == pytest.approx(cost_at(nearly, 0.02))


def test_a_sweep_that_ends_is_named() -> None:
    """At 0.3 of fewer steps everyone's cheapest row is better; ours ends at 0.1, exactly there."""
    rows = [*ROWS, row("fewer-steps", 0.25, 0.05, 4.0, share=0.25)]
    found = {entry["lpips"]: entry["ended"] for entry in at_equal_quality(rows, "compute_fraction")}
    assert found == {0.001: [], 0.01: [], 0.05: [], 0.1: []}
    short = [*ROWS, row("short", 0.5, 0.005)]
    found = {entry["lpips"]: entry["ended"] for entry in at_equal_quality(short, "compute_fraction")}
    assert found == {0.001: [], 0.01: ["short"], 0.1: ["short"]}
    told = lead(at_equal_quality([*ROWS, row("short", 0.05, 0.005)], "compute_fraction"))
    assert [entry["ended"] for entry in told["at"]] == [False, True, True]


ROWS = [
    row("fewer-steps", 0.8, 0.001, 1.25, share=0.8),
    row("fewer-steps", 0.4, 0.01, 2.5, share=0.4),
    row("fewer-steps", 0.2, 0.1, 5.0, share=0.2),
    row("fewer-steps", 0.1, 0.3, 10.0, share=0.1),
    row("autotune", 0.2, 0.01, 4.0),
    row("autotune", 0.1, 0.1, 8.0),
    row("dpcache", 0.3, 0.01, 3.0),
    row("dpcache", 0.15, 0.1),
]


def test_methods_are_compared_at_what_fewer_steps_reach() -> None:
    found = at_equal_quality(ROWS, "compute_fraction")
    assert [(entry["lpips"], entry["share"]) for entry in found] == [(0.001, 0.8), (0.01, 0.4), (0.1, 0.2)]
    assert found[0]["cost"] == {"fewer-steps": 0.8, "autotune": None, "dpcache": None}
    assert found[1]["cost"] == pytest.approx({"fewer-steps": 0.4, "autotune": 0.2, "dpcache": 0.3})
    timed = at_equal_quality(ROWS, "latency")
    assert timed[2]["cost"] == pytest.approx({"fewer-steps": 0.2, "autotune": 0.125, "dpcache": 1 / 3})


def test_the_lead_names_the_best_other_method() -> None:
    found = lead(at_equal_quality(ROWS, "compute_fraction"))
    assert [entry["best"] for entry in found["at"]] == ["fewer-steps", "dpcache", "dpcache"]
    assert found["at"][0]["over_best"] is None
    assert found["at"][1]["over_best"] == pytest.approx(1.5)
    assert found["at"][2]["over_fewer_steps"] == pytest.approx(2.0)
    assert found["median_over_best"] == pytest.approx(1.5)
    assert found["median_over_fewer_steps"] == pytest.approx(2.0)
    assert found["reached"] == 2


def test_without_our_rows_there_is_no_lead() -> None:
    found = lead(at_equal_quality([r for r in ROWS if r["method"] != "autotune"], "latency"))
    assert found["median_over_best"] is None
    assert found["least_over_best"] is None
    assert found["reached"] == 0


def test_at_equal_speed() -> None:
    (found,) = at_equal_speed(ROWS, (5.0,))
    assert found["lpips"]["fewer-steps"] == pytest.approx(0.1)
    assert found["lpips"]["dpcache"] is None, "its timed row is slower"
    assert 0.01 < found["lpips"]["autotune"] < 0.1


def test_hypervolume_by_hand() -> None:
    found = volumes(ROWS)
    # from the LPIPS of a fifth of the steps, 0.1, which our second row does not beat
    assert found["autotune"] == pytest.approx((1 - 0.2) * (0.1 - 0.01))
    assert set(tables(ROWS)) >= {"hypervolume", "compute_fraction_at_lpips", "latency_lead"}


def test_a_lead_in_time_names_the_methods_that_were_not_timed() -> None:
    timed = [{**one, "speedup": 1 / one["compute_fraction"]} for one in ROWS]
    found = tables([*timed, row("slow", 0.5, 0.01)])
    assert found["latency_lead"]["without"] == ["slow"]
    assert found["compute_fraction_lead"]["without"] == []
    assert "than the best other method that was timed (median" in list(leads(found))[1]
    assert "than the best other method (median" in list(leads(tables(timed)))[1]
