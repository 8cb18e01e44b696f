"""Requests one after the other: nothing of one reaches the next, whatever ended it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Semaphore

import pytest
import torch
from diffusers import (
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
)

import xslim
from tests.pipelines import draw, flux_pipeline
from tests.runtime.failures import RequestFailureError, fail_between_steps
from tests.tiny import TINY, dit, dit_pipeline, generate, noise, sample
from xslim import Policy
from xslim.runtime.model import LiveModel
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers, with numpy
@pytest.mark.parametrize("build", [HeunDiscreteScheduler, partial(PNDMScheduler, skip_prk_steps=True)])
def test_schedulers_that_list_a_timestep_twice(build: Callable[[], SchedulerMixin]) -> None:
    """The second entry is a further step, not a new request."""
    pipe = dit_pipeline()
    pipe.scheduler = scheduler = build()
    every = Policy(controller={"kind": "interval", "every": 2})
    with xslim.attach(pipe, every, num_steps=6) as session:
        for _ in range(2):
            generate(pipe, 6)
            assert session.held_bytes == 0
    listed = len(scheduler.timesteps)
    assert listed > 6
    assert [(r.steps, r.num_steps, r.aborted) for r in session.requests] == [(listed, listed, False)] * 2


def test_timesteps_that_are_equal_in_16_bit() -> None:
    """Neighbours round to one number; the scheduler's own list tells them apart."""
    pipe = flux_pipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipe.transformer.to(torch.bfloat16)
    every = Policy(controller={"kind": "interval", "every": 4})
    with xslim.attach(pipe, every, num_steps=100) as session:
        draw(pipe, 100)
        rounded = {float(t.to(torch.bfloat16)) for t in pipe.scheduler.timesteps}
    assert len(rounded) < 100
    assert [(r.steps, r.aborted) for r in session.requests] == [(100, False)]
    assert session.trace.actions == ("F" + "...F" * 25)[:100]


def test_timesteps_that_rise() -> None:
    """While noise falls; a fall begins a new request."""
    tiny = TINY["MochiTransformer3DModel"]
    model, start = tiny.build(), noise(tiny, 1)
    assert LiveModel(model).adapter.timestep.rising
    with xslim.attach(model, Policy.from_pattern("F.B."), num_steps=4) as session:
        first = sample(tiny, model, 4, start)
        with pytest.raises(RequestFailureError):
            sample(tiny, model, 4, noise(tiny, 1, seed=4), before=stop_at(2))
        assert torch.equal(sample(tiny, model, 4, start), first)
    assert [(r.steps, r.aborted) for r in session.requests] == [(4, False), (2, True), (4, False)]


def stop_at(last: int) -> Callable[[int, torch.Tensor], torch.Tensor]:
    def stop(step: int, x: torch.Tensor) -> torch.Tensor:
        if step == last:
            raise RequestFailureError
        return x

    return stop


def in_threads(*tasks: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


def test_two_pipelines_in_two_threads(adaptive: Policy) -> None:
    """Each has its own session, and gives what it gives alone."""
    pipes = [dit_pipeline(seed) for seed in range(2)]
    sessions = [xslim.attach(pipe, adaptive, num_steps=12) for pipe in pipes]
    alone = [generate(pipe, 12) for pipe in pipes]
    together = in_threads(*(partial(generate, pipe, 12) for pipe in pipes))
    for session, expected, found in zip(sessions, alone, together, strict=True):
        assert torch.equal(found, expected)
        assert session.requests[0] == session.requests[1]
        session.detach()


def test_one_model_in_two_threads_that_take_turns(caplog: pytest.LogCaptureFixture) -> None:
    """A call from another thread is never part of a request: all is full, right, and said once."""
    model, starts = dit(), (noise(DIT, 1), noise(DIT, 1, seed=5))
    plain = [sample(DIT, model, 6, start) for start in starts]
    turns = (Semaphore(1), Semaphore(0))

    def task(own: int) -> torch.Tensor:
        def take_turn(step: int, x: torch.Tensor) -> torch.Tensor:
            if step:
                turns[1 - own].release()
            turns[own].acquire()
            return x

        out = sample(DIT, model, 6, starts[own], before=take_turn)
        turns[1 - own].release()
        return out

    with xslim.attach(model, Policy.from_pattern("F....."), num_steps=6) as session:
        found = in_threads(partial(task, 0), partial(task, 1))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert {r.actions for r in session.requests} == {"F"}
    assert len([r for r in caplog.records if "another thread" in r.getMessage()]) == 1


def test_requests_may_come_from_one_thread_after_the_other(mixed: Policy) -> None:
    """A server's pool of threads: each request is whole, in whatever thread it runs."""
    pipe = dit_pipeline()
    with xslim.attach(pipe, mixed, num_steps=8) as session:
        expected = generate(pipe, 8)
        for _ in range(3):
            assert torch.equal(in_threads(partial(generate, pipe, 8))[0], expected)
    assert [(r.actions, r.aborted) for r in session.requests] == [("FFB.FT.F", False)] * 4


def test_a_pipeline_that_ends_early_frees_everything() -> None:
    """It says so itself, when its transformer has a say; the steps that were left are no abort."""
    pipe = flux_pipeline()

    def interrupt(pipe: object, step: int, timestep: object, values: dict[str, object]) -> dict[str, object]:
        pipe._interrupt = step == 3
        return values

    with xslim.attach(pipe, Policy.from_pattern("F......."), num_steps=8) as session:
        draw(pipe, 8, callback_on_step_end=interrupt)
        assert session.held_bytes == 0
        assert [(r.actions, r.aborted) for r in session.requests] == [("F...", False)]


@pytest.mark.parametrize("left_out", [0, -1])
def test_a_call_without_its_first_or_last_block_turns_the_policy_off(left_out: int) -> None:
    """Skip-layer guidance of SD3: reuse begins at the first block and ends at the last."""
    from tests.tiny import TINY

    tiny = TINY["SD3Transformer2DModel"]
    model, start = tiny.build(), noise(tiny, 1)
    skip = [left_out % len(model.transformer_blocks)]

    def run(target: torch.nn.Module) -> torch.Tensor:
        return sample(tiny, lambda **kwargs: target(**{**kwargs, "skip_layers": skip}), 4, start)

    plain = run(model)
    with xslim.attach(model, Policy.from_pattern("F..F"), num_steps=4) as session:
        assert torch.equal(run(model), plain)
    assert set(session.trace.actions) == {"F"}
    assert "first or the last block" in session.requests[-1].mismatch


def test_prompts_of_nearly_the_same_length_are_counted_once() -> None:
    from tests.pipelines import embeddings, flux_pipeline
    from xslim.runtime.session import _COUNTED

    pipe = flux_pipeline()
    with xslim.attach(pipe, Policy.from_pattern("F.F"), num_steps=3):
        for tokens in range(33, 65):
            embeds, pooled = embeddings(1, tokens)
            pipe(
                prompt_embeds=embeds, pooled_prompt_embeds=pooled, height=8, width=8,
                num_inference_steps=3, output_type="latent",
            )  # fmt: skip
    assert len(_COUNTED[pipe.transformer]) <= 9
