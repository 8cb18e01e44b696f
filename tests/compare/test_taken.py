"""Rows taken over from another comparison: which, on which terms, and that going on keeps them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autotune.compare.taken import (
    Taken,
    Timing,
    check_same,
    has_ours,
    kept,
    measured_methods,
    read_rows,
    taken_from,
)
from autotune.scoring.doubles import FormulaEvaluator
from tests.compare.test_run import Counting, compared
from tests.search.support import STEPS, FormulaFactory, Search, merged
from xslim.errors import ConfigError


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    Search(folder).run()
    compared(folder, {"compare.methods": ["fora", "dpcache", "bac"]})
    return folder / "comparison.json"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory, earlier: Path) -> Path:
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(earlier.parent, folder, dirs_exist_ok=True)  # its search
    (folder / "comparison.json").unlink()
    shutil.rmtree(folder / "comparison")
    compared(folder, {"compare.methods": ["dpcache"]}, others=earlier)
    return folder


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def of(data: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [row for row in data["rows"] if row["method"] == method]


def test_methods_that_are_not_measured_are_taken_over(earlier: Path, later: Path) -> None:
    before, after = read(earlier), read(later / "comparison.json")
    assert len(of(after, "fora")) == 3
    assert of(after, "fora") == of(before, "fora")
    assert after["budgets"]["fora"] == before["budgets"]["fora"]
    assert [point["method"] for point in after["not_run"]] == ["bac"] * 3
    assert after["taken"] == [
        {
            "methods": ["fora", "bac"],
            "command": before["command"],
            "environment": before["environment"],
            "timed": before["cases"]["timed"],
            "baseline": before["baseline"],
        }
    ]
    assert measured_methods(after) == ["autotune", "dpcache", "fewer-steps"]


def test_taken_rows_count_in_the_tables(later: Path) -> None:
    after = read(later / "comparison.json")
    assert after["tables"]["hypervolume"].keys() == {"autotune", "fewer-steps", "dpcache", "fora"}


def test_going_on_keeps_what_was_taken_and_measures_nothing(later: Path) -> None:
    before = read(later / "comparison.json")
    compared(later, {"compare.methods": ["dpcache"]}, executor := Counting())
    assert [task.kind for task in executor.tasks if task.kind == "evaluate"] == []
    after = read(later / "comparison.json")
    assert after["rows"] == before["rows"]
    assert after["taken"] == before["taken"]


def test_a_method_that_is_measured_after_all_is_not_taken(later: Path) -> None:
    data = read(later / "comparison.json")
    assert {row["method"] for row in kept(data).rows} == {"fora"}
    assert kept(data).without(["fora"]).sources[0]["methods"] == ["bac"]


def test_without_a_search_our_presets_are_taken_too(earlier: Path, tmp_path: Path) -> None:
    before = read(earlier)
    compared(tmp_path, {"compare.methods": ["lemica"]}, others=earlier)
    after = read(tmp_path / "comparison.json")
    assert of(after, "autotune") == of(before, "autotune")
    assert after["budgets"]["autotune"] == before["budgets"]["autotune"]
    assert after["taken"][0]["methods"] == ["autotune", "dpcache", "fora", "bac"]
    assert after["tables"]["hypervolume"]["autotune"] == before["tables"]["hypervolume"]["autotune"]
    assert has_ours(None, before)
    assert has_ours(after, None)
    assert not has_ours(before, None)


def test_the_first_of_two_sources_counts(earlier: Path, later: Path) -> None:
    old, new = taken_from(read(earlier)), taken_from(read(later / "comparison.json"))
    both = new.and_of(old)
    assert both.rows == new.rows
    ours = [source["methods"] for source in both.sources]
    assert ours == [["autotune", "dpcache", "fewer-steps"], ["fora", "bac"]]


def test_a_method_that_failed_here_does_not_push_out_its_rows(earlier: Path) -> None:
    good = taken_from(read(earlier))
    failed = Taken(
        not_run=({"method": "fora", "config": {}, "reason": "stopped"},),
        sources=({**good.sources[0], "methods": ["fora"]},),
    )
    assert len([row for row in failed.and_of(good).rows if row["method"] == "fora"]) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cases.seed": 5}, r"cases\.seed was 5, now 1"),
        ({"environment.torch": "1"}, r"environment\.torch was 1"),
        (
            {"request.model.guidance_scale": 4.0},
            r"request\.model\.guidance_scale was 4\.0, now None",
        ),
        ({"request.batch": 1}, r"request\.batch was 1, now 4"),
        ({"nets.lpips": "another"}, r"nets\.lpips was another"),
    ],
)
def test_rows_of_something_else_are_refused(earlier: Path, changes: dict[str, Any], says: str) -> None:
    now = read(earlier)
    with pytest.raises(ConfigError, match=rf"rows\.json: --rows: holds rows of something else: {says}"):
        check_same(now, merged(now, changes), "rows.json", "--rows")
    without = {name: value for name, value in now.items() if name != "request"}
    uncounted = {name: value for name, value in now.items() if name != "counting"}
    with pytest.raises(ConfigError, match="counting was 1, now 2"):
        check_same(now, uncounted, "rows.json", "--rows")
    check_same(now, without, "rows.json", "--rows")  # files of an older version do not tell it


def on(data: dict[str, Any], **environment: str) -> dict[str, Any]:
    """A comparison as another machine would have measured it."""
    return {**data, "environment": {**data["environment"], **environment}}


def test_speedups_of_another_machine_are_laid_aside_and_come_back(earlier: Path) -> None:
    now = read(earlier)
    taken = taken_from(now)
    here = taken.timing
    assert here is not None
    assert taken.timed_as(here) == taken
    for elsewhere in (
        Timing.of(on(now, device="another")["environment"], here.cases),
        Timing.of(now["environment"], here.cases + 8),
        None,
    ):
        aside = taken.timed_as(elsewhere)
        for row, before in zip(aside.rows, now["rows"], strict=True):
            assert row["speedup"] is None
            assert "speedup" not in row["ci95"]
            assert row["compute_fraction"] == before["compute_fraction"]
            assert row["metrics"] == before["metrics"]
            assert "another machine" in row["notes"][-1]
        assert aside.timed_as(elsewhere) == aside
        assert aside.timed_as(here) == taken


def test_a_part_that_another_machine_timed_gives_no_speedup(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(earlier.parent, tmp_path / "moved")
    elsewhere = FormulaEvaluator(STEPS, device="another")
    monkeypatch.setattr(FormulaFactory, "build", lambda self: elsewhere)
    compared(tmp_path / "moved", {"compare.methods": ["fora", "dpcache", "bac", "lemica"]})
    data = read(tmp_path / "moved/comparison.json")
    assert data["device"] == "another"
    assert {row["speedup"] for row in of(data, "fora")} == {None}
    assert all(row["speedup"] for row in of(data, "lemica")), "measured after the move"


def test_versions_and_counted_graphs_are_no_machine() -> None:
    one = Timing.of({"device": "cpu", "torch": "1", "compile": "2 graphs"}, 8)
    assert one == Timing.of({"device": "cpu", "torch": "2", "compile": "3 graphs"}, 8)
    assert one != Timing.of({"device": "cpu", "torch": "1", "compile": "no"}, 8)
    assert one != Timing.of({"device": "cpu", "driver": "5", "compile": "2 graphs"}, 8)


def test_rows_may_be_added_without_timing_to_those_of_another_machine(earlier: Path, tmp_path: Path) -> None:
    before = on(read(earlier), device="another")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(before))
    settings = {"compare.methods": ["lemica"], "compare.rounds": 0}
    compared(tmp_path, settings, executor := Counting(), others=other)
    after = read(tmp_path / "comparison.json")
    assert {task.count for task in executor.tasks if task.kind == "evaluate"} == {0}
    assert len(of(after, "lemica")) == 3
    assert all(row["speedup"] is None for row in of(after, "lemica"))
    for method in ("autotune", "fewer-steps", "fora"):
        assert of(after, method) == of(before, method)
    assert after["taken"][0]["environment"]["device"] == "another"
    lead = before["tables"]["latency_lead"]
    assert after["tables"]["latency_lead"] == {**lead, "without": ["lemica"]}
    assert after["baseline"]["latency_s"] is None

    other.write_text(json.dumps(on(read(earlier), device="a third")))
    compared(tmp_path, settings, again := Counting(), others=other)
    assert [task.kind for task in again.tasks if task.kind == "evaluate"] == []
    assert read(tmp_path / "comparison.json")["rows"] == after["rows"], "what is there stays"


def test_going_on_with_another_network_is_refused(later: Path, tmp_path: Path) -> None:
    shutil.copytree(later, tmp_path / "copy")
    data = read(tmp_path / "copy/comparison.json")
    data["request"]["batch"] = 99
    (tmp_path / "copy/comparison.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"--resume: holds rows of something else: request\.batch was 99"):
        compared(tmp_path / "copy", {"compare.methods": ["dpcache"]})


def test_what_cannot_be_taken_over_is_named(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.json: --rows: no comparison there; give the comparison\.json"
    ):
        read_rows(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"summary\.json: --rows: this is no comparison; give the comp"):
        read_rows(earlier.parent / "summary.json")
    (tmp_path / "notes.json").write_text("text")
    with pytest.raises(ConfigError, match=r"notes\.json: --rows: this is no comparison; give") as told:
        read_rows(tmp_path / "notes.json")
    assert "delete" not in str(told.value)
    (tmp_path / "half.json").write_text(json.dumps({**read(earlier), "partial": True}))
    with pytest.raises(
        ConfigError, match=r"half\.json: this comparison is not finished; finish it with --re"
    ):
        read_rows(tmp_path / "half.json")
