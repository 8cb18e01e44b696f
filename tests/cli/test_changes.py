"""What changed between two searches."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.cli import main
from autotune.cli.changes import compare_searches, print_changes
from autotune.compare.changes import BOUNDS, Finished, changes
from tests.cli.support import ScriptedFactory
from tests.search.support import write_files
from xslim.errors import ConfigError

Search = Callable[..., Path]
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of two short searches of the formula, with different seeds and numbers of trials."""
    root = tmp_path_factory.mktemp("searches")
    experiment = write_files(root / "files")
    found = []
    for name, seed, trials in (("a", 0, 8), ("b", 3, 10)):
        settings = ["--set", f"search.seed={seed}", "--set", f"search.trials={trials}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autotune.search.run.evaluator_spec", lambda *_: ScriptedFactory())
            patch.setattr(
                sys, "argv", ["autotune", "search", str(experiment), "--out", str(root / name), *settings]
            )
            with pytest.raises(SystemExit) as ended:
                main.main()
        assert not ended.value.code
        found.append(root / name)
    return found[0], found[1]


@pytest.fixture
def pair(searches: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, to be edited."""
    first, second = (shutil.copytree(folder, tmp_path / folder.name) for folder in searches)
    return first, second


@pytest.fixture
def search(searches: tuple[Path, Path], tmp_path: Path) -> Search:
    """Copy the first search under a name, with some settings of its manifest changed."""

    def copied(name: str, **settings: object) -> Path:
        folder = shutil.copytree(searches[0], tmp_path / name)
        edited(folder, "manifest.json", lambda data: data["settings"].update(settings))
        return folder

    return copied


def edited(folder: Path, file: str, edit: Edit) -> None:
    data = json.loads((folder / file).read_text())
    edit(data)
    (folder / file).write_text(json.dumps(data))


def test_two_searches_differ_by_seed_and_front(pair: tuple[Path, Path]) -> None:
    a, b = pair
    data = compare_searches(a, b)
    assert json.loads(json.dumps(data)) == data
    assert data["settings"] == {"search.seed": [0, 3]}
    assert (data["versions"], data["speedups_compare"]) == ({}, True)
    assert data["hypervolume"]["comparable"]
    assert data["budget"]["trials"][1]["complete"] > data["budget"]["trials"][0]["complete"]
    fronts = [json.loads((folder / "summary.json").read_text())["front"] for folder in pair]
    told = data["front"]
    assert len(told["kept"]) + len(told["lost"]) == len(fronts[0])
    assert len(told["kept"]) + len(told["gained"]) == len(fronts[1])
    assert set(data["tiers"]) == {BOUNDS, "high", "fast"}
    assert data["tiers"]["high"]["bounds"] == {"psnr_p5.min": 12.0}
    assert data["tiers"][BOUNDS]["fastest"][0]["preset"] == fronts[0][0]["preset"]
    swapped = compare_searches(b, a)
    assert swapped["front"]["lost"] == told["gained"]
    assert swapped["hypervolume"]["values"] == data["hypervolume"]["values"][::-1]


def test_a_search_has_not_changed_from_itself(search: Search) -> None:
    folder = search("a")
    data = compare_searches(folder, folder)
    assert (data["front"]["gained"], data["front"]["lost"], data["settings"]) == ([], [], {})
    assert {tier["verdict"] for tier in data["tiers"].values()} <= {"tie", "none"}
    assert data["tiers"][BOUNDS]["verdict"] == "tie"


def finished(folder: Path) -> Finished:
    return Finished.read(folder, json.loads((folder / "summary.json").read_text()))


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.9, 2.1], [2.2, 2.4], "faster"),
        ([1.9, 2.1], [2.1, 2.4], "tie"),
        ([1.9, 2.1], [1.5, 1.8], "slower"),
        (None, [1.5, 1.8], "gained"),
        ([1.9, 2.1], None, "lost"),
        (None, None, "none"),
    ],
)
def test_a_difference_counts_beyond_both_intervals(
    first: list[float] | None, second: list[float] | None, verdict: str, search: Search
) -> None:
    whole = finished(search("a"))

    def with_tier(ci95: list[float] | None) -> Finished:
        summary = copy.deepcopy(dict(whole.summary))
        member = copy.deepcopy(summary["front"][0])
        member["holdout"]["speedup"]["ci95"] = ci95
        summary["tiers"] = {} if ci95 is None else {"high": member}
        return Finished(whole.folder, summary, whole.manifest, whole.policies)

    data = changes(with_tier(first), with_tier(second))
    assert data["tiers"]["high"]["verdict"] == verdict


def test_on_another_device_speedups_are_not_compared(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = pair
    edited(b, "summary.json", lambda data: data["environment"].update(device="another GPU"))
    data = compare_searches(a, b)
    assert not data["speedups_compare"]
    assert {tier["verdict"] for tier in data["tiers"].values()} <= {"other device", "gained", "lost", "none"}
    assert data["hypervolume"]["reason"] == "latency was measured on different devices"
    print_changes(data)
    shown = capsys.readouterr().out
    assert "speedups are not compared: " in shown
    assert "and another GPU" in shown
    assert "not compared: other devices" in shown


def test_other_bounds_are_not_compared(search: Search) -> None:
    a, b = search("a"), search("b", **{"tiers.high.psnr_p5.min": 11.0})
    data = compare_searches(a, b)
    assert data["settings"] == {"tiers.high.psnr_p5.min": [12.0, 11.0]}
    assert data["tiers"]["high"]["verdict"] == "other bounds"
    assert data["tiers"]["high"]["bounds"] == [{"psnr_p5.min": 12.0}, {"psnr_p5.min": 11.0}]
    assert data["hypervolume"]["comparable"]


def test_more_search_cases_are_another_hypervolume(search: Search) -> None:
    data = compare_searches(search("a"), search("b", **{"cases.search": 6}))
    assert data["hypervolume"]["reason"] == "cases.search differs"


def test_other_cases_are_refused_in_one_line(search: Search) -> None:
    a, b = search("a"), search("b", **{"cases.seed": 5})
    with pytest.raises(ConfigError) as told:
        compare_searches(a, b)
    assert str(told.value) == (
        f"{a} and {b} cannot be compared: cases.seed is 0 and 5; "
        "give two searches of the same model, held-out cases and metrics"
    )


def test_another_model_is_refused_and_another_place_is_not(search: Search) -> None:
    a = search("a")
    elsewhere = compare_searches(a, search("b", **{"model.device": "cuda:3"}))
    assert elsewhere["settings"] == {"model.device": ["auto", "cuda:3"]}
    with pytest.raises(ConfigError, match="model_sha256 is "):
        compare_searches(a, search("c", model_sha256="00"))


def test_an_unfinished_search_says_how_to_go_on(search: Search) -> None:
    a = search("a")
    (a / "summary.json").unlink()
    with pytest.raises(ConfigError, match=rf"^{a}: the search is interrupted, .* resume it with: autotune "):
        compare_searches(a, a)


def test_a_folder_of_an_older_version_is_one_line(search: Search) -> None:
    a = search("a")
    (a / "manifest.json").write_text('{"experiment": "formula", "sha256": "00"}')
    with pytest.raises(ConfigError, match=rf"^{a}: holds no manifest of this version; run the search again$"):
        compare_searches(a, a)


def test_changes_are_printed(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data = compare_searches(*pair)
    print_changes(data)
    shown = capsys.readouterr().out
    kept, gained, lost = (len(data["front"][name]) for name in ("kept", "gained", "lost"))
    for part in (
        f"front: {kept} kept, {gained} gained, {lost} lost",
        "settings that differ: 1\n  search.seed: 0 -> 3",
        "hypervolume: ",
        "trials, ",
    ):
        assert part in shown
    assert shown.count("\n  + ") == gained
