"""The live view and the lines of a search in work, on a real terminal where it matters."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from autotune.cli.live import Lines, view
from autotune.search.status import Status, Trials
from tests.search.test_status import STATUS, Clock

GOLDEN = Path(__file__).parent.parent / "golden" / "live.txt"


def rendered(status: Status, age_s: float | None = None, width: int = 72) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=False)
    console.print(view(status, age_s))
    return "".join(f"{text.rstrip()}\n" for text in file.getvalue().splitlines())


def test_the_view_is_the_golden_one() -> None:
    text = rendered(STATUS.with_eta(4, 80.0)) + "\n" + rendered(Status("x", "starting", 0), 90.0)
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)

    def told(done: int, phase: str = "searching") -> str:
        lines(Status("x", phase, 3, trials=Trials(done=done, hypervolume=0.5)))
        out = capsys.readouterr()
        assert out.out == ""
        return out.err

    assert told(0) == "searching\n"
    assert told(1) == ""
    clock.now = 11.0
    assert told(1) == "1/3 trials, hypervolume 0.5000\n"
    assert told(1) == ""
    assert told(2) == ""
    assert told(3) == "3/3 trials, hypervolume 0.5000\n"
    assert told(3) == ""
    clock.now = 30.0
    assert told(3, "certified 1/2") == "certified 1/2\n"
    assert told(3, "certified 2/2") == "certified 2/2\n"


SCRIPT = """
import json, logging, sys
from autotune.cli.live import watching
from autotune.search.status import Status
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
before = sys.stderr
try:
    with watching() as show:
        show(Status.from_data(json.loads(sys.argv[2])))
        logging.getLogger("x").warning("a worker died")
        if sys.argv[1] == "break":
            raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
assert sys.stderr is before
logging.getLogger("x").warning("after the view")
"""


@pytest.mark.parametrize("end", ["well", "break"])
def test_a_terminal_is_left_clean_and_warnings_do_not_tear_the_view(end: str) -> None:
    driver, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "72", "LINES": "40"}
    with os.fdopen(driver, "rb", buffering=0) as screen:
        command = [sys.executable, "-c", SCRIPT, end, STATUS.to_json()]
        process = subprocess.Popen(command, stderr=terminal, env=environment)
        os.close(terminal)
        shown = b""
        while part := _read(screen):
            shown += part
        assert process.wait() == 0
    text = shown.decode()
    assert "12/24" in text
    hide, show = text.index("\x1b[?25l"), text.rindex("\x1b[?25h")
    assert hide < text.index("WARNING a worker died") < show, "the cursor is hidden, then shown again"
    # the view is erased, the warning has a line of its own, and the view is drawn again below it
    assert any(found.endswith("WARNING a worker died") for found in text.replace("\r", "").split("\n"))
    assert text.index("12/24") < text.index("WARNING a worker died") < text.rindex("12/24")
    assert text.index("WARNING after the view") > show


def _read(screen: io.RawIOBase) -> bytes:
    try:
        return screen.read(65536) or b""
    except OSError:  # Linux tells the end of a terminal so
        return b""
