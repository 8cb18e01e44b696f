"""A finished search on the formula evaluator, copied for each test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autotune.report.sources import Search, read_search
from tests.search.support import Search as Run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "formula"
    assert Run(folder, {"search.trials": 30}).run().summary["front"]
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "formula"))


def read(folder: Path, going: str = "") -> Search:
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else None
    return read_search(folder, summary, "autotune search formula.yaml --out runs/formula", going)
