"""The border of the command line: statuses of what ends it early."""

from __future__ import annotations

import sys

import pytest
import typer

from autotune.cli import main as main_module


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (KeyboardInterrupt(), 75),
        (typer.Abort(), 75),
        (typer.Exit(130), 75),  # what typer makes of a second signal
        (typer.Exit(0), 0),
        (RuntimeError("broken"), 3),
    ],
)
def test_statuses(ended: BaseException, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(**_: object) -> None:
        raise ended

    monkeypatch.setattr(main_module, "app", end)
    monkeypatch.setattr(sys, "argv", ["autotune"])
    with pytest.raises(SystemExit) as found:
        main_module.main()
    assert found.value.code == status
