"""Guidance branches without a name: told apart by what conditions them, never by the order of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from torch import Tensor, nn

import xslim
from tests.pipelines import embeddings, flux_pipeline
from tests.tiny import TINY, dit, noise
from tests.tiny.flux import flux
from xslim import Policy
from xslim.runtime.session import Session

DIT = TINY["DiTTransformer2DModel"]
FLUX = TINY["FluxTransformer2DModel"]
STEPS = 6
PATTERN = Policy.from_pattern("F.F..F")
Prompt = tuple[Tensor, Tensor]


def call(model: nn.Module, latent: Tensor, prompt: Prompt, time: float) -> Tensor:
    rows = len(latent)
    ids = torch.zeros(16, 3)
    ids[:, 1], ids[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    return model(
        hidden_states=latent,
        encoder_hidden_states=prompt[0],
        pooled_projections=prompt[1],
        timestep=torch.full((rows,), time, dtype=latent.dtype),
        img_ids=ids,
        txt_ids=torch.zeros(prompt[0].shape[1], 3),
        guidance=torch.full((rows,), 3.5, dtype=latent.dtype),
        return_dict=False,
    )[0]


Calls = Callable[[int], Iterable[tuple[str, Prompt]]]


@torch.no_grad()
def run(model: nn.Module, calls: Calls, steps: int = STEPS) -> dict[tuple[str, int], Tensor]:
    """Outputs by label and step; all calls of a step get the same latent."""
    found = {}
    for step in range(steps):
        latent = noise(FLUX, 1) * (1 - step / 10)
        for label, prompt in calls(step):
            found[label, step] = call(model, latent, prompt, 1 - step / steps)
    return found


def attached(calls: Calls, policy: Policy = PATTERN) -> tuple[dict[tuple[str, int], Tensor], Session]:
    model = flux()
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        found = run(model, calls)
    return found, session


def alone(prompt: Prompt, steps: Iterable[int] = range(STEPS)) -> dict[int, Tensor]:
    """What a branch gives that is the only one."""
    kept = tuple(steps)
    found, _ = attached(lambda step: [("it", prompt)] if step in kept else [])
    return {step: found["it", step] for step in kept}


def copied(prompt: Prompt) -> Prompt:
    """The same content in another storage."""
    return prompt[0].clone(), prompt[1].clone()


COND, UNCOND, LONG = embeddings(1), embeddings(2), embeddings(3, tokens=7)


@pytest.mark.parametrize("other", [UNCOND, LONG], ids=["same length", "another length"])
@pytest.mark.parametrize("rebuilt", [False, True], ids=["kept", "rebuilt"])
@pytest.mark.parametrize("turns", [False, True], ids=["in order", "in turns"])
def test_two_calls_a_step(other: Prompt, rebuilt: bool, turns: bool) -> None:
    """Also when the conditioning is made anew at every step, and when the order of the calls changes."""

    def calls(step: int) -> list[tuple[str, Prompt]]:
        pair = [("cond", COND), ("uncond", other)]
        if rebuilt:
            pair = [(label, copied(prompt)) for label, prompt in pair]
        return pair[::-1] if turns and step % 2 else pair

    found, session = attached(calls)
    assert session.trace.branches == ("default", "branch-2")
    assert session.trace.all_actions == ("F.F..F",) * 2
    assert len(session.requests) == 1
    assert session.held_bytes == 0
    for label, prompt in (("cond", COND), ("uncond", other)):
        for step, expected in alone(prompt).items():
            assert torch.equal(found[label, step], expected)


@pytest.mark.parametrize("absent", [(0, 1), (1, 2), (4, 5), (5,)])
def test_guidance_intervals(absent: tuple[int, ...]) -> None:
    """The second branch is absent at some steps: the first does not notice, the second starts afresh."""

    def calls(step: int) -> list[tuple[str, Prompt]]:
        return [("cond", COND)] if step in absent else [("cond", COND), ("uncond", UNCOND)]

    found, session = attached(calls)
    assert session.trace.branches == ("default", "branch-2")
    assert len(session.requests) == 1
    for step, expected in alone(COND).items():
        assert torch.equal(found["cond", step], expected)
    present = [step for step in range(STEPS) if step not in absent]
    assert len(session.trace.actions_of("branch-2")) == len(present)
    # its first call, and the first after a gap, is full, wherever that is; then the pattern goes on
    steps = PATTERN.controller.steps
    expected = "".join(steps[step] if step - 1 in present else "F" for step in present)
    assert session.trace.actions_of("branch-2") == expected


def test_equal_conditionings_of_two_branches_are_two() -> None:
    """An empty prompt and an empty negative one: same content, different tensors, one latent."""
    twin = copied(COND)
    found, session = attached(lambda _: [("cond", COND), ("uncond", twin)])
    assert session.trace.branches == ("default", "branch-2")
    assert len(session.requests) == 1
    for step, expected in alone(COND).items():
        assert torch.equal(found["cond", step], expected)
        assert torch.equal(found["uncond", step], expected)


@pytest.mark.parametrize("prompt", [COND, copied(COND), UNCOND], ids=["same", "equal", "another"])
def test_an_abort_after_the_first_call_is_no_branch(prompt: Prompt) -> None:
    """The same timestep again, on another latent: a new request, whatever its prompt."""
    model = flux()
    with xslim.attach(model, PATTERN, num_steps=STEPS) as session, torch.no_grad():
        call(model, noise(FLUX, 1, seed=7), COND, 1.0)
        found = run(model, lambda _: [("it", prompt)])
    assert [r.aborted for r in session.requests] == [True, False]
    assert [r.steps for r in session.requests] == [1, STEPS]
    for step, expected in alone(prompt).items():
        assert torch.equal(found["it", step], expected)


def test_batched_guidance_that_stops_in_the_middle() -> None:
    """Two samples in a call, then one: the single one is a branch of the same request, and starts full."""
    model = flux()
    both = tuple(torch.cat(pair) for pair in zip(UNCOND, COND, strict=True))
    with xslim.attach(model, PATTERN, num_steps=STEPS) as session, torch.no_grad():
        for step in range(STEPS):
            latent = noise(FLUX, 1) * (1 - step / 10)
            if step < 3:
                call(model, latent.repeat(2, 1, 1), both, 1 - step / STEPS)
            else:
                call(model, latent, COND, 1 - step / STEPS)
        assert session.held_bytes == 0
    assert len(session.requests) == 1
    assert session.trace.actions_of("default") == "F.F"
    assert session.trace.actions_of("branch-2") == "F.F"


def test_conditioning_overwritten_in_place_computes_in_full(caplog: pytest.LogCaptureFixture) -> None:
    """One buffer for both branches: nothing tells them apart, so nothing is reused."""
    buffer = copied(COND)

    def calls(_: int) -> Iterable[tuple[str, Prompt]]:
        for label, prompt in (("cond", COND), ("uncond", UNCOND)):
            for target, source in zip(buffer, prompt, strict=True):
                target.copy_(source)
            yield label, buffer

    found, session = attached(calls)
    plain = run(flux(), calls)
    assert all(torch.equal(found[key], plain[key]) for key in plain)
    assert "overwritten in place" in str(session.requests[0].mismatch)
    assert len([r for r in caplog.records if r.name.startswith("xslim")]) == 1


def test_conditioning_that_changes_at_every_step_is_bounded() -> None:
    """Every step is a first one: full, and after some of them the policy is off and nothing is kept."""
    model = flux()
    held = []
    with xslim.attach(model, Policy.from_pattern("F" + "." * 19), num_steps=20) as session, torch.no_grad():
        for step in range(20):
            call(model, noise(FLUX, 1), embeddings(step + 10), 1 - step / 20)
            held.append(session.held_bytes)
    assert {record.decisions[0].action for record in session.trace.records} == {"F"}
    assert "changes from step to step" in str(session.requests[0].mismatch)
    assert held[-1] == 0


def test_branches_by_name_may_miss_steps() -> None:
    """Two calls a step under diffusers' own context; the unconditional one is absent at some steps."""
    model, start = dit(), noise(DIT, 1)
    other = noise(DIT, 1, seed=5)
    absent = (1, 2)

    def outputs(branches: dict[str, Tensor]) -> dict[tuple[str, int], Tensor]:
        found = {}
        with xslim.attach(model, PATTERN, num_steps=STEPS) as session, torch.no_grad():
            for step in range(STEPS):
                for name, latent in branches.items():
                    if name == "uncond" and step in absent:
                        continue
                    _set_cache_context(model, CacheContext(name))
                    found[name, step] = DIT.call(model, latent, 1 - step / STEPS)
                    _set_cache_context(model, None)
            assert session.held_bytes == 0
            assert len(session.requests) == 1
            assert session.trace.branches == tuple(branches)
        return found

    both = outputs({"cond": start, "uncond": other})
    swapped = outputs({"cond": other, "uncond": start})
    for step, expected in outputs({"cond": start}).items():
        assert torch.equal(both[step], expected)  # whoever else is called, and however often
    expected = outputs({"cond": start, "uncond": start})
    assert all(torch.equal(swapped["uncond", s], expected["uncond", s]) for s in (0, 3, 4, 5))


def test_a_branch_first_called_at_the_last_step_is_full() -> None:
    model, start = dit(), noise(DIT, 1)
    with torch.no_grad():
        plain = DIT.call(model, start, 0.25)
        with xslim.attach(model, Policy.from_pattern("F..."), num_steps=4) as session:
            for step in range(4):
                _set_cache_context(model, CacheContext("cond"))
                DIT.call(model, start, 1 - step / 4)
            _set_cache_context(model, CacheContext("uncond"))
            late = DIT.call(model, start, 0.25)
            _set_cache_context(model, None)
            assert session.held_bytes == 0
    assert torch.equal(late, plain)
    assert session.trace.all_actions == ("F...", "F")
    assert len(session.requests) == 1
    assert session.requests[0].mismatch is None


GAPS = {
    "pattern": Policy.from_pattern("FF.F.F"),
    "full before the gap": Policy.from_pattern("F.FF.F"),
    "newton": Policy.from_pattern("FFF.F.", predictor={"kind": "newton", "order": 1}),
    "refreshes": Policy.from_pattern("FFBTFF", block_threshold=1e9, start_block=0),
    "table": Policy(
        controller={"kind": "table", "blocks": [[1] * 6, [1] * 6, [1, 0] * 3, [0] * 6, [1] * 6, [0] * 6]}
    ),
    "online": Policy(
        controller={"kind": "dual-threshold", "critical": 0.8, "warmup": 3, "polish": ["block"]},
        block={"budget": 0.5, "start_block": 0},
    ),
}


@pytest.mark.parametrize("policy", GAPS.values(), ids=GAPS)
@pytest.mark.parametrize("gap", [(1,), (1, 2), (2,), (3,), (1, 3)])
def test_after_a_gap_nothing_from_before_it_is_reused(policy: Policy, gap: tuple[int, ...]) -> None:
    """What is kept is planned for branches that are called at every step."""
    found, session = attached(
        lambda step: [("cond", COND)] if step in gap else [("cond", COND), ("uncond", UNCOND)], policy
    )
    assert not session.requests[0].aborted
    actions = dict(
        zip([s for s in range(STEPS) if s not in gap], session.trace.actions_of("branch-2"), strict=True)
    )
    plain = run(flux(), lambda _: [("uncond", UNCOND)])
    for step in actions:
        if step - 1 in gap:
            assert actions[step] == "F"
        if actions[step] == "F":
            assert torch.equal(found["uncond", step], plain["uncond", step])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_branch_that_begins_late_is_of_the_step_that_its_scheduler_counts(dtype: torch.dtype) -> None:
    """In 16 bit neighbouring timesteps cannot be told apart by the value that the transformer is told."""
    pipe, steps = flux_pipeline(), 40
    pipe.to(dtype=dtype)
    policy = Policy.from_pattern("F." * 20)
    prompts = [tuple(part.to(dtype) for part in prompt) for prompt in (COND, UNCOND)]
    with torch.no_grad(), xslim.attach(pipe, policy, num_steps=steps) as session:
        pipe.scheduler.set_timesteps(steps)
        latent = noise(FLUX, 1).to(dtype)
        for step, time in enumerate(pipe.scheduler.timesteps):
            told = float(time.to(dtype) / 1000)
            outputs = [call(pipe.transformer, latent, prompt, told) for prompt in prompts[: 1 + (step >= 10)]]
            latent = pipe.scheduler.step(outputs[0], time, latent, return_dict=False)[0]
    assert len(session.requests) == 1
    found: dict[str, list[int]] = {}
    for record in session.trace.records:
        found.setdefault(record.branch, []).append(record.step)
    assert found == {"default": list(range(steps)), "branch-2": list(range(10, steps))}
