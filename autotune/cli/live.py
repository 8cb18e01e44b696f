"""Shows how far a search is: a live view on terminals, elsewhere a line now and then. All on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autotune.cli.common import say
from autotune.search.status import Status, duration, line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.5
BAR_WIDTH = 30
WAITING = Status("", "", 0)

Show = Callable[[Status], None]


@contextmanager
def watching(clock: Callable[[], float] = time.monotonic) -> Iterator[Show]:
    """Give a function that shows a status; the terminal is clean again when the context ends."""
    if not sys.stderr.isatty():
        yield Lines(clock)
        return
    from rich.console import Console
    from rich.live import Live

    # no thread that redraws: it would disturb latencies that are measured in this process
    live = Live(console=Console(stderr=True), auto_refresh=False, vertical_overflow="visible")
    with live, _logging_through_stderr():
        screen = Screen(live, clock)
        try:
            yield screen
        finally:
            screen.redraw()


@contextmanager
def _logging_through_stderr() -> Iterator[None]:
    """Let log handlers of the terminal write to the `sys.stderr` of now, which a live view keeps in order."""
    terminal = (sys.__stderr__, getattr(sys.stderr, "rich_proxied_file", sys.stderr))
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in terminal
    ]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


class Lines:
    """Prints each phase, and the status at most every `LINE_EVERY_S` seconds and when the trials are in.

    Args:
        clock: seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shown = WAITING
        self._last = clock()

    def __call__(self, status: Status) -> None:
        """Print what is new."""
        if status.phase != self._shown.phase:
            say(status.phase)
        news = status.trials.done != self._shown.trials.done
        whole = status.trials.done >= status.wanted > 0
        if news and (whole or self._clock() - self._last >= LINE_EVERY_S):
            self._last = self._clock()
            say(line(status))
            self._shown = status
        elif status.phase != self._shown.phase:
            self._shown = Status(status.experiment, status.phase, status.wanted, trials=self._shown.trials)


class Screen:
    """Redraws a live view, at most every `REDRAW_EVERY_S` seconds unless the phase or the trials change."""

    def __init__(self, live: Live, clock: Callable[[], float]) -> None:
        self._live, self._clock = live, clock
        self._status = self._drawn = WAITING
        self._last = float("-inf")

    def __call__(self, status: Status) -> None:
        """Show a status, soon."""
        self._status = status
        news = (status.phase, status.trials) != (self._drawn.phase, self._drawn.trials)
        if news or self._clock() - self._last >= REDRAW_EVERY_S:
            self.redraw()

    def redraw(self) -> None:
        """Show the newest status now."""
        if self._status is not WAITING:
            self._last, self._drawn = self._clock(), self._status
            self._live.update(view(self._status), refresh=True)


def view(status: Status, age_s: float | None = None) -> RenderableType:
    """Return a status as a table.

    Args:
        status: what is shown.
        age_s: how old it is, where it comes from a file.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(status, age_s):
        table.add_row(name, Text(text) if isinstance(text, str) else text)
    return table


def _lines(status: Status, age_s: float | None) -> Iterator[tuple[str, RenderableType]]:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    trials, workers = status.trials, status.workers
    yield status.experiment, status.phase
    times = [f"running for {duration(status.elapsed_s)}"]
    times += [] if status.eta_s is None else [f"trials done in {duration(status.eta_s)}"]
    times += [] if age_s is None else [f"as of {duration(age_s)} ago"]
    yield "time", ", ".join(times)
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, status.wanted), completed=trials.done, width=BAR_WIDTH)
    row.add_row(f"{trials.done}/{status.wanted}", bar)
    yield "trials", row
    yield "", f"{status.running} in flight, {trials.failed} failed, {trials.repeated} repeated"
    yield "front", f"{trials.front} trials, hypervolume {trials.hypervolume:.4f}"
    for name, best in trials.best.items():
        yield name, "none yet" if best is None else f"{best} (trial {best.trial})"
    yield "workers", f"{workers.busy} busy, {workers.idle} idle, {workers.dead} dead"
    unit = "GPU-seconds" if status.gpu else "worker-seconds"
    yield "spent", f"{status.worker_seconds:.0f} {unit}, {trials.images} images on the search cases"
