"""A peer as a cache that the evaluator measures like one of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from autotune.compare.peers.counting import Counts, counted, letters
from autotune.compare.recipe import Peer
from autotune.scoring.applied import Applied, Work
from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.loading import transformers


@dataclass(frozen=True, slots=True)
class Enabled:
    """A library's cache that is on.

    Attributes:
        runner: what draws with it.
        held: objects that hold its tensors.
    """

    runner: PipelineRunner
    held: tuple[object, ...]


class Library(Protocol):
    """How a library's cache is switched on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of how it was measured."""
        ...

    def enabled(self, runner: PipelineRunner) -> AbstractContextManager[Enabled]:
        """Switch it on inside; its state is fresh.

        Raises:
            PeerFailedError: it does not fit the model, or does not leave it as it was.
        """
        ...


@dataclass
class PeerCache:
    """A peer's cache; what it computes is counted where it is not timed.

    Attributes:
        peer: which it is.
        library: switches it on.
        uncached: batch size -> MACs of the uncached calls; what is missing is counted.
    """

    peer: Peer
    library: Library
    uncached: dict[int, list[float]] = field(default_factory=dict)

    @property
    def filled_by(self) -> object:
        """The configuration."""
        return self.peer.to_data()

    @contextmanager
    def applied(self, runner: PipelineRunner, batch: Sequence[Case], timed: bool) -> Iterator[Applied]:
        """Switch it on inside."""
        if timed:
            with self.library.enabled(runner) as enabled:
                yield _Switched(enabled.runner, Counts(), [])
            return
        uncached = self._uncached_calls(runner, batch)
        with (
            self.library.enabled(runner) as enabled,
            counted(transformers(enabled.runner.pipe), enabled.held) as counts,
        ):
            yield _Switched(enabled.runner, counts, uncached)

    def _uncached_calls(self, runner: PipelineRunner, batch: Sequence[Case]) -> list[float]:
        """MACs of the uncached calls of a batch of this size."""
        if len(batch) not in self.uncached:
            with counted(transformers(runner.pipe)) as counts:
                runner.draw(batch)
            self.uncached[len(batch)] = counts.calls
        return self.uncached[len(batch)]


@dataclass(frozen=True, slots=True)
class _Switched:
    """A peer that is on."""

    runner: PipelineRunner
    counts: Counts
    uncached: list[float]

    @property
    def held_bytes(self) -> int:
        return self.counts.held_bytes

    def work(self) -> Work:
        calls = self.counts.calls
        actions = letters(calls, self.uncached, self.runner.num_steps)
        return Work(actions, sum(calls) / sum(self.uncached), calls)
