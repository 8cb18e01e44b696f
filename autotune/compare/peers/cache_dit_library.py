"""cache-dit's caches, on a second pipeline: what it patches is not restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autotune.compare.peers.cache import Enabled
from autotune.compare.peers.failure import PeerFailedError
from autotune.compare.recipe import Peer
from autotune.scoring.pipeline import PipelineRunner

ORDER = "taylorseer_order"  # of the forecaster; without it there is none
MASK = "steps_mask"  # name of a mask, made for the number of steps


class CacheDit:
    """DBCache or DBPrune of cache-dit, which starts every request afresh.

    Args:
        peer: configuration and arguments, as its class takes them; beside them `taylorseer_order`, and
            `steps_mask` with the name of a mask.
        runner: the uncached pipeline; another one is loaded beside it.

    Raises:
        PeerFailedError: cache-dit does not know the pipeline.
    """

    def __init__(self, peer: Peer, runner: PipelineRunner) -> None:
        import cache_dit

        self._runner = PipelineRunner(runner.spec)
        pipe: Any = self._runner.pipe
        # cache-dit patches `__call__` of the pipeline's class: the uncached pipeline keeps the class as it is
        kind = type(pipe)
        pipe.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__})
        if not cache_dit.BlockAdapterRegister.is_supported(pipe):
            raise PeerFailedError(f"cache-dit has no adapter for {kind.__name__}")
        given = dict(peer.arguments)
        order, mask = given.pop(ORDER, None), given.pop(MASK, None)
        if mask is not None:
            steps = cache_dit.steps_mask(mask_policy=mask, total_steps=self._runner.num_steps)
            given["steps_computation_mask"] = steps
        calibrator = None if order is None else cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
        config = getattr(cache_dit, peer.config)(**given)
        cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=calibrator)

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was measured."""
        return (
            "timed against a second pipeline, because it does not restore the one it patches; peak memory on "
            "a GPU counts both",
        )

    @contextmanager
    def enabled(self, runner: PipelineRunner) -> Iterator[Enabled]:
        """Draw with the second pipeline; its contexts are made anew at every call."""
        yield Enabled(self._runner, (self._runner.pipe._context_manager,))
