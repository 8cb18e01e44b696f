"""Ways to end a request in the middle."""

from __future__ import annotations

from collections.abc import Callable

from diffusers import DiffusionPipeline


class RequestFailureError(Exception):
    """What the tests raise inside a request."""


def fail_in_block(pipe: DiffusionPipeline, step: int) -> Callable[[], None]:
    """The last double block raises when it runs for the n-th time; returns what restores it."""
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise RequestFailureError

    return pipe.transformer.transformer_blocks[-1].register_forward_pre_hook(hook).remove


def fail_between_steps(pipe: DiffusionPipeline, step: int) -> Callable[[], None]:
    """The scheduler raises after a step's transformer call; returns what restores it."""
    plain, calls = pipe.scheduler.step, 0

    def raising(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise RequestFailureError
        return plain(*args, **kwargs)

    pipe.scheduler.step = raising
    return lambda: pipe.scheduler.__dict__.pop("step")
