"""Watching a scheduler: what its methods are called with and return, their names and signatures kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Note = Callable[[Mapping[str, Any], Any], None]


@contextmanager
def watched(scheduler: Any, method: str, note: Note) -> Iterator[None]:
    """Tell the keyword arguments and the result of every call of a method.

    Args:
        scheduler: of diffusers; pipelines look at its methods' signatures.
        method: its name.
        note: called after each call.
    """
    had = method in vars(scheduler)
    original = getattr(scheduler, method)

    @functools.wraps(original)
    def told(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        note(kwargs, result)
        return result

    setattr(scheduler, method, told)
    try:
        yield
    finally:
        if had:
            setattr(scheduler, method, original)
        else:
            delattr(scheduler, method)


class StepCount:
    """Steps that a scheduler has taken since it was set, and the transformer's calls in the present one.

    Attributes:
        step: index of the step in progress.
        call: index of the call in progress within the step; guidance may take several. -1 before the first.
    """

    def __init__(self) -> None:
        self.step, self.call = 0, -1

    def enter(self) -> None:
        """Note that the transformer is called."""
        self.call += 1

    @contextmanager
    def of(self, scheduler: Any) -> Iterator[None]:
        """Count the steps of a scheduler."""

        def stepped(*_: Any) -> None:
            self.step, self.call = self.step + 1, -1

        def reset(*_: Any) -> None:
            self.step, self.call = 0, -1

        with watched(scheduler, "step", stepped), watched(scheduler, "set_timesteps", reset):
            yield
