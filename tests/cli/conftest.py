"""The command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
