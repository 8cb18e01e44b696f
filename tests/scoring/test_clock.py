"""What is timed: the denoising loop and its calls, by the device's clock."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

import xslim
from autotune.scoring.clock import EventClock, WallClock, clock_of
from autotune.scoring.latency import time_loop
from autotune.scoring.pipeline import LoopTimer, PipelineRunner
from autotune.scoring.sampling import Sampling
from tests.scoring.conftest import CASES, HALF


class Steps:
    """A clock whose marks are told beforehand."""

    def __init__(self, marks: Iterable[float]) -> None:
        self._marks = iter(marks)
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1

    def mark(self) -> float:
        return next(self._marks)

    def seconds(self, start: float, end: float) -> float:
        return end - start


def test_a_loop_and_its_calls_are_timed_between_marks() -> None:
    clock = Steps([1.0, 1.5, 2.0, 2.75, 4.0, 4.5])
    timer = LoopTimer(clock)
    for _ in range(3):
        timer.before()
        timer.after()
    assert timer.take() == 3.5
    assert timer.calls == (1.0, 2.0, 0.5)  # the scheduler's time belongs to the call before it
    assert clock.waits == 1, "only before the first call"
    with pytest.raises(RuntimeError, match="was not called"):
        timer.take()


def test_the_loop_of_a_pipeline_is_timed(runner: PipelineRunner) -> None:
    with runner.loop_timer() as timer:
        with pytest.raises(RuntimeError, match="was not called"):
            timer.take()
        with runner.sampled(Sampling(num_steps=3)):
            runner.draw(CASES[:1])
        seconds = timer.take()
    assert len(timer.calls) == 3
    assert sum(timer.calls) == pytest.approx(seconds)
    assert min(timer.calls) > 0
    assert not runner.pipe.transformer._forward_hooks
    assert not runner.pipe.transformer._forward_pre_hooks


def test_a_sample_knows_what_the_session_held(runner: PipelineRunner) -> None:
    assert time_loop(runner, CASES[:1], None).peak_bytes == 0
    held = time_loop(runner, CASES[:1], HALF)
    with xslim.attach(runner.pipe, HALF, num_steps=6) as session:
        runner.draw(CASES[:1])
    assert held.peak_bytes == session.peak_held_bytes > 0
    assert (held.spoiled, held.gpu) == ("", None)


def test_devices_have_their_clocks() -> None:
    assert isinstance(clock_of(torch.device("cpu")), WallClock)
    assert isinstance(clock_of(torch.device("cuda")), EventClock)


@pytest.mark.gpu
def test_events_span_what_the_wall_clock_does() -> None:
    device = torch.device("cuda")
    events, wall = clock_of(device), WallClock()
    x = torch.randn(4096, 4096, device=device)
    for _ in range(2):  # the first is slow
        events.wait()
        start = (events.mark(), wall.mark())
        for _ in range(20):
            x = x @ x / 64
        end = events.mark()
        events.wait()
        elapsed = wall.seconds(start[1], wall.mark())
    assert events.seconds(start[0], end) == pytest.approx(elapsed, rel=0.05)
