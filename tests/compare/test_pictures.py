"""Which rows are shown side by side, from rows made by hand."""

from __future__ import annotations

from typing import Any

from autotune.compare.document import Row
from autotune.compare.pictures import matched, shown_rows


def row(method: str, speed: float | None, lpips: float | None, compute: float = 0.5) -> dict[str, Any]:
    return {
        "id": f"{method}-{speed}-{lpips}",
        "method": method,
        "title": method,
        "speedup": speed,
        "compute_fraction": compute,
        "metrics": {"lpips": lpips},
    }


def strips(*rows: dict[str, Any]) -> list[tuple[float, list[str]]]:
    return [(s.speed, [r.id for r in s.rows]) for s in matched([Row.parse(one) for one in rows])]


def test_the_nearest_row_of_a_method_within_the_factor_is_shown() -> None:
    own = row("autotune", 3.0, 0.01)
    near, nearer = row("fora", 3.8, 0.02), row("fora", 2.9, 0.03)
    fast, slow = row("teacache", 3.91, 0.001), row("toca", 2.3, 0.001)  # 3 * 1.3 = 3.9, 3 / 1.3 = 2.31
    fewer = row("fewer-steps", 2.31, 0.05)
    assert strips(near, own, fast, slow, nearer, fewer) == [(3.0, [fewer["id"], own["id"], nearer["id"]])]


def test_of_the_others_the_three_with_the_lowest_lpips_are_shown() -> None:
    own = row("autotune", 3.0, 0.01)
    others = [row(f"m{i}", 3.0, lpips) for i, lpips in enumerate((0.04, 0.02, None, 0.03, 0.05))]
    assert strips(*others, own) == [(3.0, [own["id"], others[1]["id"], others[3]["id"], others[0]["id"]])]


def test_at_most_four_speeds_spread_over_our_front() -> None:
    rows = [row("autotune", float(speed), 0.01 * speed) for speed in range(1, 8)]
    beaten = row("autotune", 4.5, 0.9)
    assert [speed for speed, _ in strips(beaten, *rows)] == [1.0, 3.0, 5.0, 7.0]
    assert shown_rows([beaten, *rows]) == {one["id"] for one in (beaten, *rows)}, "all of ours are drawn"


def test_without_rows_of_ours_the_speeds_are_fixed() -> None:
    rows = [row("fora", 2.2, 0.01), row("fora", 6.1, 0.1), row("teacache", 3.0, 0.2)]
    assert strips(*rows) == [(2.0, [rows[0]["id"]]), (6.0, [rows[1]["id"]])]
    assert shown_rows(rows) == {rows[0]["id"], rows[1]["id"]}, "3.0 is near neither 2 nor 4"


def test_where_a_row_was_not_timed_all_are_matched_by_compute() -> None:
    own, other = row("autotune", 2.0, 0.01, compute=0.25), row("fora", None, 0.02, compute=0.26)
    assert strips(own, other) == [(4.0, [own["id"], other["id"]])]
