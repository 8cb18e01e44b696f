"""Session: a policy attached to one model. Finds requests, runs their steps, keeps their traces."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from torch import Tensor

from xslim.errors import RequestMismatchError
from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset
from xslim.policy.schedule import remap
from xslim.policy.trace import RequestSummary, StepRecord, Trace
from xslim.runtime.feature_cache import held_bytes
from xslim.runtime.hooks import Installation
from xslim.runtime.macs import MacsTable
from xslim.runtime.model import LiveModel
from xslim.runtime.request import Request, Shape
from xslim.runtime.signature import (
    describe_model,
    model_mismatch,
    scheduler_sigmas,
    scheduler_timesteps,
)
from xslim.runtime.step import Step, StepTask

log = logging.getLogger(__name__)
REQUESTS_KEPT = 100


class Session:
    """What `attach` returns. Use it as a context manager, or call `detach`.

    Attributes:
        requests: summaries of the last 100 requests.
        peak_held_bytes: most bytes held between two steps since attaching.
    """

    def __init__(
        self,
        model: LiveModel,
        policy: Policy,
        num_steps: int,
        preset: Preset | None,
        scheduler: Callable[[], object | None],
        strict: bool,
    ) -> None:
        self._model = model
        self._policy = policy
        self._num_steps = num_steps
        self._preset = preset
        self._scheduler = scheduler
        self._strict = strict
        self._request: Request | None = None
        self._step: Step | None = None
        self._last_trace = Trace()
        self._macs: dict[tuple[object, ...], MacsTable] = {}
        self._counting: Callable[..., None] | None = None
        self._plain = False
        self._warned: set[str] = set()
        self.requests: deque[RequestSummary] = deque(maxlen=REQUESTS_KEPT)
        self.peak_held_bytes = 0
        self._installation: Installation | None = Installation(model, self)

    # what users see

    @property
    def trace(self) -> Trace:
        """Trace of the request in progress, else of the last one."""
        return self._last_trace if self._request is None else self._request.trace

    @property
    def attached(self) -> bool:
        """Whether the model is still hooked."""
        return self._installation is not None

    @property
    def held_bytes(self) -> int:
        """Bytes of cached features held now."""
        branches = [] if self._request is None else self._request.branches.values()
        return held_bytes(tensor for branch in branches for tensor in branch.tensors())

    @contextmanager
    def request(self) -> Iterator[None]:
        """Mark one request: what runs inside starts afresh, and nothing is held afterwards."""
        self._end(aborted=True)
        try:
            yield
        except BaseException:
            self._end(aborted=True)
            raise
        self._end(aborted=False)

    def detach(self) -> None:
        """Restore the model exactly and free everything held; the trace stays readable."""
        self._end(aborted=True)
        if self._installation is not None:
            self._installation.remove()
            self._installation = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    # what the hooks call

    def on_transformer(self, branch: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of the transformer under the policy."""
        if self._plain or self._step is not None:
            return forward(*args, **kwargs)
        try:
            return self._run(branch, forward, args, kwargs)
        except BaseException:
            self._step = None
            self._end(aborted=True)
            raise

    def on_block(self, block: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of a block."""
        if self._counting is not None:
            self._counting(block, forward, self._model.block_arguments(block, args, kwargs))
        if self._step is None or self._plain:
            return forward(*args, **kwargs)
        return self._step.run_block(block, forward, args, kwargs)

    # requests

    def _run(self, branch: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        adapter = self._model.adapter
        arguments = self._model.root_arguments(args, kwargs)
        latent: Tensor = arguments[adapter.latent]
        timestep = float(arguments[adapter.timestep].flatten()[0])
        shape = Shape.of(latent)
        if self._request is None or not self._request.belongs(branch, timestep, shape):
            self._end(aborted=True)
            self._request = self._start(latent)
        request = self._request
        request.advance(branch, timestep, shape)
        self._check_length(request)
        table = self._table(shape, latent.shape[0], args, kwargs)
        state = request.branch(branch, latent.shape[0])
        info = StepInfo(request.step, request.num_steps, self._sigma(request.step), branch)
        bypass = request.mismatch is not None
        task = StepTask(request.policy, info, request.keeps(request.step), table, bypass)
        step = self._step = Step(self._model, state, task, latent)
        output = forward(*args, **kwargs)
        self._step = None
        step.observe(output[0] if isinstance(output, tuple) else output.sample)
        self._note(request, step, branch, table, state.rows)
        if request.last_step and len(request.seen) == len(request.branches):
            self._end(aborted=False)
        return output

    def _note(
        self, request: Request, step: Step, branch: str, table: MacsTable, rows: int
    ) -> None:
        full = rows * table.total
        record = StepRecord(request.step, branch, step.decisions, step.readings, step.macs, full)
        request.trace.records.append(record)
        self.peak_held_bytes = max(self.peak_held_bytes, self.held_bytes)

    def _start(self, latent: Tensor) -> Request:
        timesteps = scheduler_timesteps(self._scheduler())
        live_steps = self._num_steps if not timesteps else len(timesteps)
        mismatch = None
        policy = self._policy
        if self._preset is not None:
            mismatch = self._preset_mismatch(self._preset, latent, live_steps)
        if mismatch is None:
            source = None if self._preset is None else self._preset.model.sigmas
            policy = remap(policy, live_steps, source, scheduler_sigmas(self._scheduler()))
        self._warn(mismatch)
        return Request(policy, live_steps, mismatch)

    def _preset_mismatch(self, preset: Preset, latent: Tensor, steps: int) -> str | None:
        live = describe_model(
            self._model.adapter.family,
            self._model.transformer,
            self._scheduler(),
            steps,
            latent.shape,
        )
        return model_mismatch(preset.model, live)

    def _check_length(self, request: Request) -> None:
        """More calls than steps, or a timestep that is not the preset's: compute what is left in full."""
        if request.mismatch is not None:
            return
        if request.step >= request.num_steps:
            request.mismatch = f"more than {request.num_steps} steps"
        elif self._preset is not None and self._preset.model.timesteps is not None:
            wanted = self._preset.model.timesteps[request.step]
            if request.timestep is not None and abs(request.timestep - wanted) > 1e-3 * max(1.0, wanted):
                request.mismatch = (
                    f"timestep of step {request.step} is {request.timestep:g}, "
                    f"the preset was made for {wanted:g}"
                )
        self._warn(request.mismatch)

    def _warn(self, mismatch: str | None) -> None:
        if mismatch is None:
            return
        if self._strict:
            raise RequestMismatchError(f"{mismatch}; attach a preset made for this request")
        if mismatch not in self._warned:
            self._warned.add(mismatch)
            log.warning("policy not applied, computing in full: %s", mismatch)

    def _end(self, aborted: bool) -> None:
        """Close the request in progress: sum it up and free what it holds."""
        request, self._request = self._request, None
        if request is None:
            return
        unfinished = request.step < request.num_steps - 1
        request.aborted = aborted and unfinished
        self._last_trace = request.trace
        self.requests.append(request.summary())

    def _sigma(self, step: int) -> float | None:
        sigmas = scheduler_sigmas(self._scheduler())
        return sigmas[step] if sigmas is not None and step < len(sigmas) else None

    # counting

    def _table(self, shape: Shape, rows: int, args: Any, kwargs: Any) -> MacsTable:
        key = (shape.size[1:], shape.dtype)
        if key not in self._macs:
            self._macs[key] = self._model.count_macs(rows, args, kwargs, self._count_with)
        return self._macs[key]

    @contextmanager
    def _count_with(self, note: Callable[..., None] | None) -> Iterator[None]:
        self._counting, self._plain = note, True
        try:
            yield
        finally:
            self._counting, self._plain = None, False
