"""The command line in this process."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from autotune.cli import main
from tests.cli.support import Result, ScriptedFactory
from tests.search.support import write_files


@pytest.fixture
def autotune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `autotune` with some arguments in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["autotune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        out, err = capsys.readouterr()
        return Result(int(str(ended.value.code or 0)), out, err)

    return run


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let searches run on the formula evaluator; return an experiment's file."""
    monkeypatch.setattr("autotune.search.run.evaluator_spec", lambda *_: ScriptedFactory())
    return write_files(tmp_path / "files")


@dataclass(frozen=True)
class Finished:
    """A search that has ended: its experiment, what the command printed, and a folder to write in."""

    experiment: Path
    result: Result
    out: Path


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One search on the formula evaluator for all tests of a file."""
    folder = tmp_path_factory.mktemp("searched")
    experiment, out, err = write_files(folder / "files"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("autotune.search.run.evaluator_spec", lambda *_: ScriptedFactory())
        words = ["search", str(experiment), "--out", str(folder / "out"), "--set", "search.seed=0"]
        patch.setattr(sys, "argv", ["autotune", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
    status = int(str(ended.value.code or 0))
    return Finished(experiment, Result(status, out.getvalue(), err.getvalue()), folder / "out")


@pytest.fixture
def finished(searched: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """A copy of the file's search; searches run on the formula evaluator."""
    monkeypatch.setattr("autotune.search.run.evaluator_spec", lambda *_: ScriptedFactory())
    out = shutil.copytree(searched.out, tmp_path / "finished")
    return Finished(searched.experiment, searched.result, out)
