"""Session: a policy attached to one model. Finds requests, runs their steps, keeps their traces."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

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
# MACs by transformer and latent shape: counting takes a while, and sessions come and go
_COUNTED: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], MacsTable]] = WeakKeyDictionary()


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
        self._last: Request | None = None
        self._step: Step | None = None
        self._last_trace = Trace()
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
        self._close()
        try:
            yield
        except BaseException:
            self._end(aborted=True)
            raise
        self._end(aborted=False)
        self._last = None

    def detach(self) -> None:
        """Restore the model exactly and free everything held; the trace stays readable."""
        self._close()
        if self._installation is not None:
            self._installation.remove()
            self._installation = None

    def _close(self) -> None:
        self._end(aborted=self._request is not None and self._request.unfinished)
        self._last = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    # what the hooks call

    def on_transformer(self, branch: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of the transformer under the policy."""
        if self._step is not None:  # a call within a call
            return forward(*args, **kwargs)
        try:
            return self._run(branch, forward, args, kwargs)
        except BaseException:
            self._step = None
            self._end(aborted=True)
            raise

    def on_block(self, block: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of a block."""
        if self._step is None:
            return forward(*args, **kwargs)
        return self._step.run_block(block, forward, args, kwargs)

    # requests

    def _run(self, branch: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        adapter = self._model.adapter
        call = self._model.root_call(args, kwargs)
        latent = call.tensor(adapter.latent)
        time = adapter.timestep
        timestep = time.offset + time.scale * float(call.tensor(time.argument).flatten()[0])
        shape = Shape.of(latent)
        request = self._find(branch, timestep, shape) or self._start(latent)
        self._request = request
        request.advance(branch, timestep, shape)
        self._check_length(request)
        table = self._table(shape, latent.shape[0], args, kwargs)
        state = request.branch(branch, latent.shape[0])
        info = StepInfo(request.step, request.num_steps, request.sigma, branch)
        bypass = request.mismatch is not None
        task = StepTask(
            request.policy,
            info,
            request.keeps(request.step),
            request.keeps_residual(request.step),
            table,
            bypass,
        )
        step = self._step = Step(self._model, state, task, latent)
        output = forward(*args, **kwargs)
        self._step = None
        step.observe(output[0] if isinstance(output, tuple) else output.sample)
        self._note(request, step, branch, table, state.rows)
        if request.last_step and request.seen.issuperset(request.branches):
            self._end(aborted=False)
        return output

    def _find(self, branch: str, timestep: float, shape: Shape) -> Request | None:
        """The request that a call belongs to: the one in progress, or the last one going on.

        A request that goes on after its last step (more steps than the policy was made for, or a branch
        that was not called before) is reopened, so that its further calls are not taken for a new one.
        """
        stamp = getattr(self._scheduler(), "timesteps", None)
        if self._request is not None:
            if self._request.belongs(branch, timestep, shape, stamp):
                return self._request
            self._end(aborted=self._request.unfinished)
            return None
        last = self._last
        if last is None or not last.belongs(branch, timestep, shape, stamp):
            return None
        self.requests.pop()
        return last

    def _note(self, request: Request, step: Step, branch: str, table: MacsTable, rows: int) -> None:
        full = rows * table.total
        record = StepRecord(request.step, branch, step.decisions, step.readings, step.macs, full)
        request.trace.records.append(record)
        self.peak_held_bytes = max(self.peak_held_bytes, self.held_bytes)

    def _start(self, latent: Tensor) -> Request:
        scheduler = self._scheduler()
        timesteps, sigmas = scheduler_timesteps(scheduler), scheduler_sigmas(scheduler)
        live_steps = self._num_steps if not timesteps else len(timesteps)
        mismatch = None
        policy = self._policy
        if self._preset is not None:
            mismatch = self._preset_mismatch(self._preset, latent, live_steps)
        if mismatch is None:
            source = None if self._preset is None else self._preset.model.sigmas
            policy = remap(policy, live_steps, source, sigmas)
        self._warn(mismatch)
        return Request(policy, live_steps, mismatch, sigmas, getattr(scheduler, "timesteps", None))

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
        request.aborted = aborted
        request.branches.clear()
        self._last = None if aborted else request
        self._last_trace = request.trace
        self.requests.append(request.summary())

    # counting

    def _table(self, shape: Shape, rows: int, args: Any, kwargs: Any) -> MacsTable:
        counted = _COUNTED.setdefault(self._model.transformer, {})
        tensors = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        key = (shape.dtype, *(tuple(tensor.shape) for tensor in tensors))
        if key not in counted:
            counted[key] = self._model.count_macs(rows, args, kwargs)
        return counted[key]
