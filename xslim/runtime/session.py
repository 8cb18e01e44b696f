"""Session: a policy attached to one model. Finds requests, runs their steps, keeps their traces."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from weakref import WeakKeyDictionary

from torch import nn

from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset
from xslim.policy.schedule import remap
from xslim.policy.summary import Totals, request_data, request_line
from xslim.policy.trace import RequestSummary, StepRecord, Trace
from xslim.runtime.arrival import Arrival
from xslim.runtime.block_runner import StepTask
from xslim.runtime.calls import stacked
from xslim.runtime.compensation import load_compensation
from xslim.runtime.feature_cache import held_bytes
from xslim.runtime.fit import Fit
from xslim.runtime.hooks import Installation
from xslim.runtime.macs import MacsTable
from xslim.runtime.model import LiveModel
from xslim.runtime.request import Place, Request
from xslim.runtime.step import Step
from xslim.runtime.timetable import Clock, Timetable

log = logging.getLogger(__name__)
REQUESTS_KEPT = 100
# MACs by transformer and latent shape: counting takes a while, and sessions come and go
_COUNTED: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], MacsTable]] = WeakKeyDictionary()


class Session:
    """What `attach` returns. Use it as a context manager, or call `detach`.

    Calls from several threads are safe: they run one after the other, and a request belongs to the thread
    that began it. Threads that share a model and take turns interrupt each other's requests, so that all is
    computed in full, with a warning; give each thread a model of its own.

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
        self._fit = Fit(model, policy, preset, strict)
        self._network = load_compensation(policy.corrector)
        self._lock = threading.RLock()
        self._running = threading.local()  # .step: the step that this thread is in
        self._request: Request | None = None
        self._last: Request | None = None
        self._last_trace = Trace()
        self._older = Totals()  # requests that are no longer kept
        self.requests: deque[RequestSummary] = deque()
        self.peak_held_bytes = 0
        self._installation: Installation | None = Installation(model, self)

    # what users see

    @property
    def trace(self) -> Trace:
        """Trace of the request in progress, else of the last one."""
        request = self._request
        return self._last_trace if request is None else request.trace

    @property
    def attached(self) -> bool:
        """Whether the model is still hooked."""
        return self._installation is not None

    @property
    def held_bytes(self) -> int:
        """Bytes held now: cached features, and the weights of a learned corrector."""
        features = [] if self._request is None else self._request.tensors()
        weights = () if self._network is None else self._network.tensors()
        return held_bytes([*features, *weights])

    def summary(self) -> dict[str, Any]:
        """What happened since attaching, as plain data ready for JSON.

        `totals` covers all requests, `requests` the last 100. Both have the `shares` of the steps that each
        level took, the compute fraction, non-finite events, mismatches, the most bytes held, and a `note`:
        "never skipped", "policy not applied", or None. A request has its actions and its curve of error
        estimates besides.
        """
        kept, totals = list(self.requests), Totals()
        for request in kept:
            totals.add(request)
        return {
            "policy": self._policy.controller.kind,
            "preset": None if self._preset is None else self._preset.name,
            "attached": self.attached,
            "totals": (self._older + totals).to_data(),
            "requests": [request_data(request) for request in kept],
        }

    @contextmanager
    def request(self) -> Iterator[None]:
        """Mark one request: what runs inside starts afresh, and nothing is held afterwards."""
        self._close()
        try:
            yield
        except BaseException:
            with self._lock:
                self._end(aborted=True)
            raise
        self.on_request_end()

    def detach(self) -> None:
        """Restore the model exactly and free everything held; the trace stays readable."""
        with self._lock:
            self._close()
            if self._installation is not None:
                self._installation.remove()
                self._installation = self._network = None

    def _close(self) -> None:
        with self._lock:
            self._end(aborted=self._request is not None and self._request.unfinished)
            self._last = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    # what the hooks call

    def on_transformer(self, context: str | None, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of the transformer under the policy."""
        if self._step is not None:  # a call within a call
            return forward(*args, **kwargs)
        with self._lock:
            try:
                return self._run(context, forward, args, kwargs)
            except BaseException:
                self._end(aborted=True)
                raise
            finally:
                self._step = None

    def on_text(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of the text embedder."""
        step = self._step
        return forward(*args, **kwargs) if step is None else step.embed_text(forward, args, kwargs)

    def on_block(self, block: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one call of a block."""
        step = self._step
        return forward(*args, **kwargs) if step is None else step.run_block(block, forward, args, kwargs)

    def on_request_end(self) -> None:
        """A pipeline says that its request is over, with or without a last step of this transformer."""
        with self._lock:
            self._end(aborted=False)
            self._last = None

    @property
    def _step(self) -> Step | None:
        """The step that this thread is in."""
        return getattr(self._running, "step", None)

    @_step.setter
    def _step(self, step: Step | None) -> None:
        self._running.step = step

    # requests

    def _run(self, context: str | None, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._fit.check_mode()
        call = self._model.root_call(args, kwargs)
        arrival = Arrival.of(call, self._model.adapter, context)
        request, place = self._find(arrival)
        self._request = request
        request.enter(arrival, place)
        if request.mismatch is None:
            self._refuse(request, self._fit.at_call(request, arrival))
        rows = arrival.latent.shape[0]
        table = self._table(arrival, args, kwargs)
        state = request.branch(place.branch, rows)
        task = StepTask(
            request.policy,
            StepInfo(request.step, request.num_steps, request.sigma, place.branch),
            request.keeps(request.step),
            request.keeps_residual(request.step),
            table,
            bypass=request.mismatch is not None,
            checks_inputs=not self._fit.inputs_checked,
            network=self._network,
        )
        step = self._step = Step(self._model, state, task, arrival.latent)
        output = forward(*args, **kwargs)
        step.observe(stacked(output[0] if isinstance(output, tuple) else output.sample))
        self._note(request, step, place.branch, rows * table.total)
        if not task.bypass:
            self._refuse(request, self._fit.after_call(step))
        if request.complete and not request.reopened:
            self._end(aborted=False)
        return output

    def _find(self, arrival: Arrival) -> tuple[Request, Place]:
        """The request that a call belongs to: the one in progress, the last one going on, or a new one.

        A request that goes on after its last step (more steps than the policy was made for, or a branch
        that was not called before) is reopened, so that its further calls are not taken for a new one.
        """
        clock = Clock.of(self._scheduler())
        known = self._last if self._request is None else self._request
        place = None if known is None else known.place(arrival, clock)
        if known is not None and place is not None:
            if self._request is None:
                known.reopened = True
                self.requests.pop()
            return known, place
        if self._request is not None:
            if self._request.unfinished and self._request.thread != arrival.thread:
                self._fit.warn(
                    "calls from another thread interrupt a request, so that both compute in full; give each "
                    "thread a pipeline of its own"
                )
            self._end(aborted=self._request.unfinished)
        request = self._start(arrival)
        return request, request.first_place(arrival)

    def _start(self, arrival: Arrival) -> Request:
        scheduler = self._scheduler()
        table = Timetable(scheduler)
        num_steps = len(table) or self._num_steps
        mismatch = self._fit.at_start(arrival.latent, scheduler, num_steps)
        policy = self._policy
        if mismatch is not None:
            self._fit.report(mismatch)
        else:
            source = None if self._preset is None else self._preset.model.sigmas
            policy = remap(policy, num_steps, source, table.sigmas)
        rising = self._model.adapter.timestep.rising
        return Request(
            policy, num_steps, mismatch, table, arrival.time, arrival.shape, arrival.thread, rising
        )

    def _refuse(self, request: Request, reason: str | None) -> None:
        if reason is not None:
            request.refuse(reason)
            self._fit.report(reason)

    def _note(self, request: Request, step: Step, branch: str, full: float) -> None:
        record = StepRecord(request.step, branch, step.decisions, step.readings, step.macs, full)
        request.trace.records.append(record)
        request.peak_bytes = max(request.peak_bytes, self.held_bytes)
        self.peak_held_bytes = max(self.peak_held_bytes, request.peak_bytes)

    def _end(self, aborted: bool) -> None:
        """Close the request in progress: sum it up, say so, and free what it holds."""
        request, self._request = self._request, None
        if request is None:
            return
        request.aborted = aborted
        request.release()
        self._last = None if aborted else request
        self._last_trace = request.trace
        summary = request.summary()
        self.requests.append(summary)
        if len(self.requests) > REQUESTS_KEPT:
            self._older.add(self.requests.popleft())
        if log.isEnabledFor(logging.INFO):
            number = self._older.requests + len(self.requests)
            log.info("request %s", json.dumps({"request": number, **request_line(summary)}))

    # counting

    def _table(self, arrival: Arrival, args: Any, kwargs: Any) -> MacsTable:
        counted = _COUNTED.setdefault(self._model.transformer, {})
        key = arrival.cost_key(args, kwargs)
        if key not in counted:
            counted[key] = self._count(arrival, args, kwargs)
        return counted[key]

    def _count(self, arrival: Arrival, args: Any, kwargs: Any) -> MacsTable:
        """Count the cost of a call; a model that cannot be counted runs all the same."""
        try:
            return self._model.count_macs(arrival.latent.shape[0], args, kwargs)
        except Exception as error:
            reason = str(error).split("\n")[0][:200]
            self._fit.warn(f"cannot count MACs, compute_fraction counts blocks: {reason}")
            return MacsTable.uniform(len(self._model.blocks))
