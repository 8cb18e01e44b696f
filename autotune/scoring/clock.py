"""Clocks: when something happens on the device that computes, read without waiting for it."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Takes marks while work goes on, and tells the seconds between them afterwards."""

    def wait(self) -> None:
        """Wait until the device has done all it was asked."""
        ...

    def mark(self) -> Any:
        """Return this moment in the device's order of work; does not wait."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks; waits until the device has passed the second."""
        ...


class WallClock:
    """For a CPU, which has done its work when a call returns."""

    def wait(self) -> None:
        """Nothing to wait for."""

    def mark(self) -> float:
        """Return the wall clock."""
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """Return the difference."""
        return end - start


class EventClock:
    """For a GPU: marks are CUDA events on the current stream.

    A mark after `wait` lies where the wall clock is read, so the first and the last mark of a loop span
    what a wall clock around the synchronised loop does; those between cost no synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def wait(self) -> None:
        """Synchronise the device."""
        torch.cuda.synchronize(self._device)

    def mark(self) -> torch.cuda.Event:
        """Record an event."""
        with torch.cuda.device(self._device):
            # torch gives its events no types
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Return the seconds between two events."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def clock_of(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return EventClock(device) if device.type == "cuda" else WallClock()
