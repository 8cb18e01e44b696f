"""Rows taken over from another comparison: which, on which terms, and that going on keeps them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autotune.compare.taken import has_ours, kept, measured_methods, read_rows, rows_for, taken_from
from tests.compare.test_run import Counting, compared
from tests.search.support import Search
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


def test_rows_of_something_else_are_refused(earlier: Path) -> None:
    now = read(earlier)
    other = {**now, "cases": {**now["cases"], "seed": 5}, "environment": {**now["environment"], "torch": "1"}}
    with pytest.raises(ConfigError, match=r"--rows: .*cases\.seed was 5, now 1; environment\.torch was 1"):
        rows_for(now, other, earlier)


def test_rows_of_another_machine_come_without_speedups(earlier: Path) -> None:
    now = read(earlier)
    taken = taken_from(now)
    assert taken.timed_on(now["environment"]) == taken
    elsewhere = taken.timed_on({**now["environment"], "device": "another"})
    for row, before in zip(elsewhere.rows, now["rows"], strict=True):
        assert row["speedup"] is None
        assert "speedup" not in row["ci95"]
        assert row["compute_fraction"] == before["compute_fraction"]
        assert row["metrics"] == before["metrics"]
        assert "another machine" in row["notes"][-1]
    again = elsewhere.timed_on({**now["environment"], "device": "a third one"})
    assert again == elsewhere


def test_of_two_machines_the_first_one_that_timed_keeps_its_speedups(earlier: Path) -> None:
    now = read(earlier)
    elsewhere = {**now, "environment": {**now["environment"], "device": "another"}}
    first = taken_from(now).without(["autotune", "fewer-steps"])
    both = first.and_of(taken_from(elsewhere)).timed_on(None)
    assert {row["method"] for row in both.rows if row["speedup"]} == {"fora", "dpcache"}
    assert {row["method"] for row in both.rows if row["speedup"] is None} == {"autotune", "fewer-steps"}


def test_rows_may_be_added_without_timing_to_those_of_another_machine(earlier: Path, tmp_path: Path) -> None:
    before = read(earlier)
    before["environment"]["device"] = "another"
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
    assert after["tables"]["latency_lead"] == before["tables"]["latency_lead"]
    assert after["baseline"]["latency_s"] is None

    compared(tmp_path, settings, again := Counting())
    assert [task.kind for task in again.tasks if task.kind == "evaluate"] == []
    assert read(tmp_path / "comparison.json")["rows"] == after["rows"]


def test_speedups_on_other_numbers_of_cases_are_refused(earlier: Path) -> None:
    now = read(earlier)
    more = {**now, "cases": {**now["cases"], "timed": now["cases"]["timed"] + 8}}
    with pytest.raises(ConfigError, match=r"--rows: .*cases\.timed was"):
        rows_for(now, more, earlier)
    untimed = {**now, "cases": {**now["cases"], "timed": 0}}
    assert rows_for(untimed, more, earlier).rows == tuple(now["rows"])
    assert rows_for(now, untimed, earlier).rows == tuple(now["rows"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: no comparison there"):
        read_rows(tmp_path / "none.json")
