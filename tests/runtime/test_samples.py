"""Samples of a batch: each has its own decisions, and none notices its mates."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from diffusers import DiTPipeline

import xslim
from tests.conformance.conftest import BlockCounter
from tests.tiny import TINY, dit, generate, noise, sample
from xslim import Policy
from xslim.policy.decision import Action

DIT = TINY["DiTTransformer2DModel"]
STEPS = 16


shared_model = cache(dit)  # a detached session leaves no trace; see test_attach.py


def run(policy: Policy, latent: torch.Tensor, **kwargs) -> tuple[torch.Tensor, xslim.runtime.session.Trace]:
    model = shared_model()
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        out = sample(DIT, model, STEPS, latent, **kwargs)
    return out, session.trace


def policies() -> dict[str, Policy]:
    base: dict[str, object] = {
        "controller": {"kind": "dual-threshold", "critical": 1.1, "warning_fraction": 0.55, "warmup": 1},
        "block": {"budget": 0.5, "start_block": 0},
    }
    signals: list[dict[str, float]] = [
        {"modulated_input": 1.0},
        {"latent_velocity": 1.0},
        {"first_block": 0.5, "latent_velocity": 0.5},
    ]
    newton = {"kind": "newton", "order": 2}
    return {
        "+".join(names): Policy.parse({**base, "indicator": {"signals": names}, "predictor": newton})
        for names in signals
    }


def scaled_noise(batch: int) -> torch.Tensor:
    """Noise of unlike strength, so that the samples need unlike work; labels go by position."""
    scale = torch.tensor([1.0, 0.3, 3.0, 0.1])[:batch]
    return noise(DIT, batch) * scale.view(-1, 1, 1, 1)


@pytest.mark.parametrize("name", policies())
def test_a_sample_does_not_depend_on_its_mates(name: str) -> None:
    policy, start = policies()[name], scaled_noise(4)
    together, trace = run(policy, start)
    assert len(set(trace.all_actions)) > 1  # they did unlike work
    used = set("".join(trace.all_actions))
    assert used >= {"F", ".", "B", "T"}
    for keep in ([0], [0, 1], [0, 1, 2]):
        part, part_trace = run(policy, start[keep])
        torch.testing.assert_close(part, together[keep], rtol=1e-4, atol=1e-5)
        assert part_trace.all_actions == trace.all_actions[: len(keep)]
    changed = start.clone()
    changed[1:] = changed[1:].flip(-1) * 7
    mates, mates_trace = run(policy, changed)
    torch.testing.assert_close(mates[0], together[0], rtol=1e-4, atol=1e-5)
    assert mates_trace.all_actions[0] == trace.all_actions[0]
    assert not torch.isclose(mates[1:], together[1:], rtol=0.1).all()


def test_only_the_samples_that_need_it_are_computed() -> None:
    policy = policies()["latent_velocity"]
    policy = policy.model_copy(update={"controller": policy.controller.model_copy(update={"polish": ()})})
    model = dit()
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        counter = BlockCounter(DIT.attentions(model))
        sample(DIT, model, STEPS, scaled_noise(4))
    assert counter.rows == [session.trace.count(Action.FULL)] * 6
    assert any(len(set(record.actions)) > 1 for record in session.trace.records)


STATIC = Policy.from_pattern("FFF." + "." * 12, predictor={"kind": "newton", "order": 2})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize("policy", [*policies().values(), STATIC], ids=[*policies(), "pattern"])
def test_nonfinite_input_of_one_sample(policy: Policy, bad: float, at: int) -> None:
    """It is computed in full until it is sound again; its mates do not notice."""
    start = scaled_noise(3)
    sound, sound_trace = run(policy, start)
    kept: dict[str, torch.Tensor] = {}

    def spoil(step: int, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        if step == at:
            kept["before"] = x[1].clone()
            x[1, 0, 3, 3] = bad
        if step == at + 1:
            x[1] = kept["before"]  # the caller repairs the latent
        return x

    out, trace = run(policy, start, before=spoil)
    assert torch.isfinite(out).all()
    for mate in (0, 2):
        torch.testing.assert_close(out[mate], sound[mate], rtol=1e-4, atol=1e-5)
        assert trace.all_actions[mate] == sound_trace.all_actions[mate]
    flagged = [
        (record.step, row)
        for record in trace.records
        for row, decision in enumerate(record.decisions)
        if decision.nonfinite
    ]
    assert trace.nonfinite == len(flagged)
    assert {row for _, row in flagged} <= {1}
    assert all(trace.records[step].decisions[row].action is Action.FULL for step, row in flagged)
    if policy is not STATIC or at < 3:  # a static skip reads nothing, and keeps nothing of its input
        assert flagged
        assert flagged[0][0] in (at, at + 1)
        assert flagged[-1][0] <= at + 3


def test_sigma_windows_are_full(pipe: DiTPipeline) -> None:
    from xslim.runtime.signature import scheduler_sigmas

    pipe.scheduler.set_timesteps(10)
    sigmas = scheduler_sigmas(pipe.scheduler)
    assert sigmas is not None
    assert list(sigmas) == sorted(sigmas, reverse=True)
    plain = Policy.from_pattern("F.........")
    window = (sigmas[5] * 0.999, sigmas[4] * 1.001)
    guarded = plain.model_copy(update={"guards": xslim.policy.policy.Guards(sigma_windows=(window,))})
    with xslim.attach(pipe, guarded, num_steps=10) as session:
        generate(pipe, 10)
    assert session.trace.actions == "F...FF...."
    assert session.trace.records[4].decisions[0].reason == "sigma window"


def test_a_profiled_table_is_a_signal_without_tensors(pipe: DiTPipeline) -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 0.25, "warmup": 1, "cooldown": 0, "polish": []},
        indicator={
            "signals": {"step_table": 1.0},
            "calibration": {"step_table": {"x": [0.0, 1.0], "y": [1.0, 1.0]}},
        },
    )
    with xslim.attach(pipe, policy, num_steps=10) as session:
        generate(pipe, 10, batch=2)
    assert session.trace.all_actions == ("F..F..F..F",) * 2  # 0.1 a step; the third would reach 0.3


def test_no_signal_is_measured_for_a_static_policy(pipe: DiTPipeline) -> None:
    with xslim.attach(pipe, Policy.from_pattern("F..F"), num_steps=4) as session:
        generate(pipe, 4)
    assert all(set(r) <= {"residual_health"} for record in session.trace.records for r in record.readings)


def test_gradients_are_not_needed_and_not_broken() -> None:
    """Outside of no_grad the caller gets a graph, as from the bare model."""
    model, start = dit(), noise(DIT, 1).requires_grad_()
    with xslim.attach(model, Policy.from_pattern("FF"), num_steps=2):
        DIT.call(model, start, 1.0).sum().backward()
    assert start.grad is not None
    assert torch.isfinite(start.grad).all()


def test_a_token_refresh_waits_for_the_samples_own_second_residual() -> None:
    """A mate that computed more often must not make a sample look as if its change were known."""
    policy = Policy.from_pattern("F.T." + "." * 12)
    start = scaled_noise(2)

    def spoil(step: int, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[1] = float("nan") if step == 0 else start[1]
        return x

    alone, alone_trace = run(policy, start[:1])
    both, trace = run(policy, start, before=spoil)
    assert alone_trace.actions[:4] == "F.F."
    assert trace.all_actions[0] == alone_trace.actions
    assert trace.all_actions[1][:3] == "FFF"  # the nonfinite residual is no second one either
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
