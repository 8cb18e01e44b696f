"""Requests one after the other: nothing of one reaches the next, whatever ended it."""

from __future__ import annotations

import gc
import json
from functools import cache

import pytest
import torch
from diffusers import DiTPipeline

import xslim
from tests.runtime.failures import RequestFailureError, fail_between_steps
from tests.tiny import TINY, dit, dit_pipeline, generate, noise, sample
from xslim import Policy
from xslim.runtime.session import Session

DIT = TINY["DiTTransformer2DModel"]


@cache
def fresh(policy: str, steps: int, batch: int) -> torch.Tensor:
    """Images of the first request of a new pipeline and session; the policy as JSON."""
    pipe = dit_pipeline()
    with xslim.attach(pipe, Policy.parse(json.loads(policy)), num_steps=8):
        return generate(pipe, steps, batch)


def test_an_abort_leaves_nothing_of_an_adaptive_policy(adaptive: Policy) -> None:
    pipe = dit_pipeline()
    with xslim.attach(pipe, adaptive, num_steps=8):
        restore = fail_between_steps(pipe, 4)
        with pytest.raises(RequestFailureError):
            generate(pipe, 8, batch=2, seed=100)
        restore()
        after = generate(pipe, 8, batch=2)
    assert torch.equal(after, fresh(json.dumps(adaptive.to_data()), 8, 2))


def test_an_abort_on_a_bare_transformer_leaves_nothing(mixed: Policy) -> None:
    start = noise(DIT, 2)

    def stop(step: int, x: torch.Tensor) -> torch.Tensor:
        if step == 4:
            raise RequestFailureError
        return x

    model = dit()
    with xslim.attach(model, mixed, num_steps=8) as session:
        with pytest.raises(RequestFailureError):
            sample(DIT, model, 8, noise(DIT, 2, seed=9), before=stop)
        after = sample(DIT, model, 8, start)
    with xslim.attach(model, mixed, num_steps=8):
        assert torch.equal(after, sample(DIT, model, 8, start))
    assert [r.aborted for r in session.requests] == [True, False]


def test_an_exception_through_the_with_block_marks_the_request(pipe: DiTPipeline, mixed: Policy) -> None:
    fail_between_steps(pipe, 2)
    with pytest.raises(RequestFailureError), xslim.attach(pipe, mixed, num_steps=8) as session:
        generate(pipe, 8)
    assert session.requests[0].aborted
    assert session.trace.actions == "FFB"


def test_with_session_request(mixed: Policy) -> None:
    """Marks requests where nothing else can: a bare transformer, ended early, started lower."""
    model, start = dit(), noise(DIT, 1)

    def first_three(step: int, x: torch.Tensor) -> torch.Tensor:
        if step == 3:
            raise RequestFailureError
        return x

    with xslim.attach(model, mixed, num_steps=8) as session:
        whole = sample(DIT, model, 8, start)
        with pytest.raises(RequestFailureError), session.request():
            sample(DIT, model, 8, start, before=first_three)
        assert session.held_bytes == 0
        with session.request():
            assert torch.equal(sample(DIT, model, 8, start), whole)
        with session.request(), torch.no_grad():
            DIT.call(model, start, 0.5)
            assert session.held_bytes == 0  # both steps that a prediction reads are still to come
            DIT.call(model, start, 0.4)
            assert session.held_bytes > 0
        assert session.held_bytes == 0
        with session.request(), torch.no_grad():
            DIT.call(model, start, 0.4)  # lower than all before, and yet a first step
        assert session.trace.actions == "F"
    assert [r.aborted for r in session.requests] == [False, True, False, False, False]


def reachable_bytes(session: Session) -> int:
    """Bytes of the feature tensors that hang on a session; the model's own and the scheduler's left out."""
    model = session._model.transformer
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    seen: set[int] = {id(model), id(session._model), id(session._installation), id(session._scheduler)}
    for request in (session._request, session._last):
        if request is not None:  # the caller's own tensors are kept alive, not held
            seen |= {id(request.table.stamp), id(request.names)}
    storages: dict[int, int] = {}
    pending: list[object] = [session]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, type) or type(value).__name__ in ("module", "function"):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            continue
        pending += gc.get_referents(value)
    return sum(storages.values())


@pytest.mark.parametrize("name", ["mixed", "adaptive"])
def test_held_bytes_are_what_is_held(pipe: DiTPipeline, name: str, request: pytest.FixtureRequest) -> None:
    policy = request.getfixturevalue(name)
    held: list[tuple[int, int]] = []
    plain = pipe.scheduler.step
    with xslim.attach(pipe, policy, num_steps=8) as session:

        def look(*args: object, **kwargs: object) -> object:
            held.append((session.held_bytes, reachable_bytes(session)))
            return plain(*args, **kwargs)

        pipe.scheduler.step = look
        generate(pipe, 8, batch=3)
        assert held[-1] == (0, 0)  # after the last step
        assert all(said == found for said, found in held)
        # the first of two full steps before a refresh is not read by any prediction
        assert min(said for said, _ in held[1:-1]) > 0
        assert session.peak_held_bytes >= max(said for said, _ in held)
        assert session.held_bytes == 0


def test_only_the_last_100_requests_are_kept(mixed: Policy) -> None:
    model, start = dit(num_layers=1), noise(DIT, 1)
    with xslim.attach(model, Policy.from_pattern("F"), num_steps=1) as session:
        for _ in range(103):
            sample(DIT, model, 1, start)
    assert len(session.requests) == 100
    assert not any(r.aborted for r in session.requests)


def test_the_trace_is_readable_after_detach(pipe: DiTPipeline, mixed: Policy) -> None:
    session = xslim.attach(pipe, mixed, num_steps=8)
    assert session.trace.actions == ""
    assert session.trace.compute_fraction == 1.0
    generate(pipe, 8)
    session.detach()
    assert session.trace.actions == "FFB.FT.F"
    assert 0.4 < session.trace.compute_fraction < 0.8
    assert not session.attached


def test_more_steps_than_the_policy_knows_are_full_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """A bare transformer shows no scheduler: what goes on after the last step is never skipped."""
    model, start = dit(), noise(DIT, 2)
    with xslim.attach(model, Policy.from_pattern("F..F"), num_steps=4) as session, torch.no_grad():
        for step in range(9):
            DIT.call(model, start, 1 - step / 9)
        assert session.trace.actions == "F..F" + "F" * 5
        assert session.held_bytes == 0
        sample(DIT, model, 4, start)
    assert [r.actions for r in session.requests] == ["F..FFFFFF", "F..F"]
    assert "4 steps" in session.requests[0].mismatch
    assert session.requests[1].mismatch is None
    assert len([r for r in caplog.records if r.name.startswith("xslim")]) == 1


def test_more_steps_than_the_policy_knows_raise_when_strict() -> None:
    model, start = dit(), noise(DIT, 1)
    with xslim.attach(model, Policy.from_pattern("F.F"), num_steps=3, strict=True), torch.no_grad():
        for step in range(3):
            DIT.call(model, start, 1 - step / 5)
        with pytest.raises(xslim.errors.RequestMismatchError, match="3 steps"):
            DIT.call(model, start, 0.1)
