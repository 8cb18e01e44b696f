"""A comparison on the formula evaluator: rows, what is not run, going on, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.compare.checks import check_again, check_search
from autotune.compare.comparison import read_comparison
from autotune.compare.methods import load_recipes
from autotune.compare.printed import lines
from autotune.compare.run import CompareRun, comparison_seed
from autotune.search.executor import LocalExecutor, Task
from autotune.search.experiment import Experiment
from autotune.search.store import RunFolder
from tests.compare.support import METHODS
from tests.search.support import EXPERIMENT, SPACE, FormulaFactory, Search, merged
from xslim.errors import ConfigError

CHOSEN = {
    "compare.methods": ["fora", "taylorseer", "dpcache", "bac"],
    "compare.points": 3,
    "compare.cases": 6,
}
BASE = {**EXPERIMENT, "compare": {}, "metrics": {"net": "net"}}
ROW = {"id", "method", "title", "source", "config", "speedup", "compute_fraction", "metrics", "ci95"}


@dataclass
class Counting(LocalExecutor):
    """Notes what is asked for."""

    tasks: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        super().submit(task)


def experiment(changes: dict[str, Any] | None = None) -> Experiment:
    return Experiment.parse(merged(BASE, {**CHOSEN, **(changes or {})}))


def compared(
    folder: Path,
    changes: dict[str, Any] | None = None,
    executor: Counting | None = None,
    others: Path | None = None,
) -> dict[str, Any] | None:
    held = RunFolder(folder)
    held.acquire()
    try:
        return CompareRun(
            experiment(changes),
            load_recipes(METHODS),
            held,
            executor or Counting(),
            FormulaFactory(),
            None,  # for peers, of which none is chosen
            "autotune compare experiment.yaml",
            others=others,
        ).run()
    finally:
        held.release()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    Search(folder).run()
    return folder


@pytest.fixture(scope="module")
def found(searched: Path) -> dict[str, Any]:
    data = compared(searched)
    assert data is not None
    return data


def test_the_file_has_the_form_of_the_contract(found: dict[str, Any], searched: Path) -> None:
    assert found == read_comparison(searched)
    assert found["schema_version"] == 1
    assert not found["partial"]
    for row in found["rows"]:
        assert row.keys() >= ROW
        assert isinstance(row["speedup"], float)
        low, high = row["ci95"]["speedup"]
        assert low <= row["speedup"] <= high
        assert {"psnr", "lpips", "psnr_p5", "lpips_p95", "fid"} <= row["metrics"].keys()


def test_our_presets_fewer_steps_and_the_methods_are_rows(found: dict[str, Any], searched: Path) -> None:
    methods = [row["method"] for row in found["rows"]]
    front = json.loads((searched / "summary.json").read_text())["front"]
    assert methods[: len(front)] == ["autotune"] * len(front)
    assert {m: methods.count(m) for m in ("fewer-steps", "fora", "taylorseer", "dpcache")} == {
        "fewer-steps": 10,
        "fora": 3,
        "taylorseer": 3,
        "dpcache": 3,
    }
    assert [row["preset"] for row in found["rows"][: len(front)]] == [m["preset"] for m in front]


def test_cases_are_fresh(found: dict[str, Any]) -> None:
    assert found["cases"]["seed"] == 1
    assert found["cases"]["quality"] == 6


def test_what_cannot_be_made_says_why(found: dict[str, Any]) -> None:
    assert [point["method"] for point in found["not_run"]] == ["bac"] * 3
    assert "no residuals of blocks" in found["not_run"][0]["reason"]


def test_budgets_stand_side_by_side(found: dict[str, Any]) -> None:
    assert found["budgets"]["fora"]["points"] == 3
    assert found["budgets"]["fora"]["images"] == 3 * 6
    assert found["budgets"]["autotune"]["search"]["trials"] == 14


def test_pictures_of_our_rows_are_kept(found: dict[str, Any], searched: Path) -> None:
    folder = searched / "comparison" / "pictures"
    shown = np.load(folder / "front-00.npz")["images"]
    assert shown.dtype == np.uint8
    assert len(shown) == 4
    assert len(json.loads((folder / "cases.json").read_text())) == 4
    assert (folder / "reference.npz").exists()


def test_tables_are_printed(found: dict[str, Any]) -> None:
    text = "\n".join(lines(found))
    assert "compute fraction at equal" in text
    assert "not run: bac" in text
    assert "search: 14 trials" in text


def test_a_second_run_measures_nothing_again(searched: Path, found: dict[str, Any]) -> None:
    executor = Counting()
    again = compared(searched, executor=executor)
    assert again is not None
    assert [task.kind for task in executor.tasks if task.kind == "evaluate"] == []
    assert again["rows"] == found["rows"]
    wider = compared(searched, {"compare.methods": ["fora", "lemica"]}, executor := Counting())
    assert wider is not None
    evaluated = [task for task in executor.tasks if task.kind == "evaluate"]
    assert 0 < len(evaluated) <= 3 * 2, "only the new method's points, in parts"


def test_without_a_search_there_are_no_rows_of_ours(tmp_path: Path) -> None:
    data = compared(tmp_path, {"compare.methods": ["fora"]})
    assert data is not None
    assert {row["method"] for row in data["rows"]} == {"fewer-steps", "fora"}
    assert data["tables"]["compute_fraction_lead"]["median_over_best"] is None


def test_a_search_of_another_model_is_refused(searched: Path) -> None:
    check_search(searched, experiment(), SPACE)
    with pytest.raises(
        ConfigError, match=r"holds a search of something else: model\.num_steps was 12, now 10"
    ):
        check_search(searched, experiment({"model.num_steps": 10}), SPACE)


def test_other_cases_are_refused(searched: Path, found: dict[str, Any]) -> None:
    check_again(searched, found, experiment(), comparison_seed(experiment()))
    with pytest.raises(ConfigError, match=r"--resume: .*quality of the cases was 6, now 8"):
        check_again(searched, found, experiment({"compare.cases": 8}), 1)
    with pytest.raises(ConfigError, match=r"seed of the cases was 1, now 5"):
        check_again(searched, found, experiment({"compare.seed": 5}), 5)
    with pytest.raises(ConfigError, match=r"it was timed, and compare\.rounds is 0 now"):
        check_again(searched, found, experiment({"compare.rounds": 0}), 1)
