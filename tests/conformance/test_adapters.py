"""What every adapter has to hold at full steps and step reuse; one tiny real model each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xslim
from tests.conformance.conftest import fitting
from tests.tiny import TINY, Tiny, noise, sample
from xslim import Policy
from xslim.runtime.model import LiveModel

STEPS = 6


def dual(critical: float, signal: str = "modulated_input", **controller: object) -> Policy:
    """A policy that refreshes blocks; it fits every family."""
    return Policy(
        controller={"kind": "dual-threshold", "critical": critical, "polish": ["block"], **controller},
        indicator={"signals": {signal: 1.0}},
        block={"budget": 0.5, "start_block": 0},
    )


ALWAYS_FULL = {
    "critical 0": (dual(0.0), 3),
    "pattern of F": (Policy.from_pattern("F" * STEPS), 1),
    "interval 1": (Policy(controller={"kind": "interval", "every": 1}), 2),
}


@pytest.mark.parametrize("name", ALWAYS_FULL)
def test_all_full_is_bit_exact(tiny: Tiny, model: nn.Module, name: str) -> None:
    policy, batch = ALWAYS_FULL[name]
    start = noise(tiny, batch)
    plain = sample(tiny, model, STEPS, start)
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        cached = sample(tiny, model, STEPS, start)
    assert torch.equal(plain, cached)
    assert session.trace.actions == "F" * STEPS
    assert len(session.requests) == 1
    measures_a_signal = policy.controller.kind == "dual-threshold"
    extra = session.trace.compute_fraction - 1.0
    assert 0.0 <= extra < 0.2 if measures_a_signal else extra == 0.0


def test_the_samples_differ_between_steps_and_rows(tiny: Tiny, model: nn.Module) -> None:
    """Guards the suite itself: on a model that ignores time every reuse would pass."""
    start = noise(tiny, 2)
    with torch.no_grad():
        early, late = tiny.call(model, start, 1.0), tiny.call(model, start, 0.3)
    assert (early - late).abs().max() > 1e-2
    assert (early[0] - early[1]).abs().max() > 1e-2


def test_hold_adds_the_last_computed_residual(tiny: Tiny, model: nn.Module, stack_probe) -> None:
    start = noise(tiny, 2)
    with xslim.attach(model, Policy.from_pattern("F..F."), num_steps=5) as session:
        probe = stack_probe(model)
        sample(tiny, model, 5, start)
    for skipped, source in ((1, 0), (2, 0), (4, 3)):
        assert torch.equal(probe.outputs[skipped], probe.inputs[skipped] + probe.residual(source))
    outside = [record.macs / record.full_macs for record in session.trace.records]
    assert outside[0] == outside[3] == 1.0
    assert 0.0 < outside[1] == outside[2] == outside[4] < 0.5  # what is around the blocks


def test_newton_extrapolates_computed_residuals_only(tiny: Tiny, model: nn.Module, stack_probe) -> None:
    policy = Policy.from_pattern("F.FF..", predictor={"kind": "newton", "order": 2})
    with xslim.attach(model, policy, num_steps=6):
        probe = stack_probe(model)
        sample(tiny, model, 6, noise(tiny, 2))
    assert torch.equal(probe.outputs[1], probe.inputs[1] + probe.residual(0))  # one residual: plain reuse
    # the parabola through steps 0, 2 and 3, at 5
    r0, r2, r3 = (probe.residual(step) for step in (0, 2, 3))
    expected = r0 * (3 * 2) / (2 * 3) - r2 * (5 * 2) / (2 * 1) + r3 * (5 * 3) / (3 * 1)
    torch.testing.assert_close(probe.outputs[5], probe.inputs[5] + expected, rtol=1e-4, atol=1e-4)


def test_full_and_skip_steps_run_all_and_no_blocks(tiny: Tiny, model: nn.Module, block_counter) -> None:
    with xslim.attach(model, dual(0.6, polish=[], warmup=2), num_steps=STEPS) as session:
        counter = block_counter(tiny.attentions(model))
        sample(tiny, model, STEPS, noise(tiny, 2))
    full = session.trace.count(xslim.policy.decision.Action.FULL)
    assert 0 < full < 2 * STEPS
    assert counter.rows == [full] * len(counter.rows)


def test_guidance_branches_keep_apart(tiny: Tiny, model: nn.Module) -> None:
    """Two calls a step in contexts of their own give what two requests of their own give."""
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    policy = Policy.from_pattern("FF.B", predictor="newton", start_block=0)
    starts = {"cond": noise(tiny, 2), "uncond": noise(tiny, 2, seed=5)}
    alone = {}
    for name, start in starts.items():
        with xslim.attach(model, policy, num_steps=4):
            alone[name] = sample(tiny, model, 4, start)
    latents = dict(starts)
    with xslim.attach(model, policy, num_steps=4) as session, torch.no_grad():
        for step in range(4):
            for name in latents:
                _set_cache_context(model, CacheContext(name))
                latents[name] = latents[name] - tiny.call(model, latents[name], 1 - step / 4) / 4
        _set_cache_context(model, None)
    for name in starts:
        assert torch.equal(latents[name], alone[name])
    assert len(session.requests) == 1
    assert session.trace.branches == ("cond", "uncond")


def test_a_sample_does_not_depend_on_its_mates(tiny: Tiny, model: nn.Module) -> None:
    """Samples of one batch take unlike actions, and each gets what it gets without the others."""
    scale = torch.tensor([1.0, 0.3, 3.0])
    start = noise(tiny, 3)
    start = start * scale.view(-1, *[1] * (start.dim() - 1))
    with xslim.attach(model, dual(0.0, "latent_velocity"), num_steps=10) as session:
        sample(tiny, model, 10, start)
    readings = [row["latent_velocity"] for record in session.trace.records[3:] for row in record.readings]
    critical = 4 * sum(readings) / len(readings)
    policy = dual(critical, "latent_velocity", warning_fraction=0.4, warmup=2, cooldown=0)
    with xslim.attach(model, policy, num_steps=10) as session:
        together = sample(tiny, model, 10, start)
        actions = session.trace.all_actions
    assert len(set(actions)) > 1
    assert {"F", ".", "B"} <= set("".join(actions))
    for rows in (1, 2):
        with xslim.attach(model, policy, num_steps=10) as session:
            part = sample(tiny, model, 10, start[:rows])
        assert session.trace.all_actions == actions[:rows]
        torch.testing.assert_close(part, together[:rows], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_in_every_dtype(tiny: Tiny, dtype: torch.dtype) -> None:
    model, start = tiny.build().to(dtype), noise(tiny, 2, dtype=dtype)
    plain = sample(tiny, model, STEPS, start)
    pattern = fitting(model, "FF.BT.")
    policy = Policy.from_pattern(pattern, predictor="newton", start_block=0)
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        cached = sample(tiny, model, STEPS, start)
    assert cached.dtype == dtype
    assert torch.isfinite(cached).all()
    assert session.trace.actions == pattern
    assert not torch.equal(cached, plain)
    signals = Policy(
        controller={"kind": "dual-threshold", "critical": 2.0, "warmup": 2, "polish": ["block"]},
        indicator={"signals": {"modulated_input": 0.5, "latent_velocity": 0.5, "first_block": 0.2}},
        block={"budget": 0.5, "start_block": 0},
    )
    with xslim.attach(model, signals, num_steps=STEPS) as session:
        assert torch.isfinite(sample(tiny, model, STEPS, start)).all()


def test_detach_restores_the_model_exactly(tiny: Tiny) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    with xslim.attach(model, Policy.from_pattern("F..F"), num_steps=4):  # counted before it ever ran
        cached = sample(tiny, model, 4, start)
    plain = sample(tiny, model, 4, start)  # some models keep tables from their first call on
    before = snapshot(model)
    session = xslim.attach(model, Policy.from_pattern("F..F"), num_steps=4)
    assert torch.equal(sample(tiny, model, 4, start), cached)
    assert not torch.equal(cached, plain)
    session.detach()
    assert snapshot(model) == before
    assert torch.equal(sample(tiny, model, 4, start), plain)
    session.detach()  # again: nothing to do
    assert snapshot(model) == before


def snapshot(model: torch.nn.Module) -> list[object]:
    """Everything that could show that somebody was there."""
    return [
        [
            (name, type(m), list(m.__dict__), list(m._modules), m.__dict__.get("forward"), m.training)
            for name, m in model.named_modules()
        ],
        [(key, id(value)) for key, value in model.state_dict(keep_vars=True).items()],
    ]


def test_hooks_of_others_keep_working(tiny: Tiny, model: nn.Module) -> None:
    start = noise(tiny, 1)
    block = LiveModel(model).blocks[1]
    calls: list[str] = []
    handles = [
        block.register_forward_pre_hook(lambda *_: calls.append("pre")),
        block.register_forward_hook(lambda *_: calls.append("post")),
        model.register_forward_hook(lambda *_: calls.append("model")),
    ]
    with xslim.attach(model, Policy.from_pattern("F.F"), num_steps=3):
        sample(tiny, model, 3, start)
    assert calls == ["pre", "post", "model"] * 3  # counting the cost called nobody
    sample(tiny, model, 1, start)
    assert calls == ["pre", "post", "model"] * 4
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("transformer", ["DiTTransformer2DModel", "Flux2Transformer2DModel"])
def test_anothers_diffusers_hook_survives_whichever_came_first(transformer: str) -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    def doubled(part: object) -> object:
        return part * 2 if isinstance(part, torch.Tensor) else part

    class Doubler(ModelHook):
        def post_forward(self, module: torch.nn.Module, output: object) -> object:
            return tuple(map(doubled, output)) if isinstance(output, tuple) else doubled(output)

    tiny = TINY[transformer]
    model, start = tiny.build(), noise(tiny, 1)
    early, late = LiveModel(model).blocks[0], LiveModel(model).blocks[-1]
    HookRegistry.check_if_exists_or_initialize(early).register_hook(Doubler(), "early")
    session = xslim.attach(model, Policy.from_pattern("FFF"), num_steps=3)
    HookRegistry.check_if_exists_or_initialize(late).register_hook(Doubler(), "late")
    attached = sample(tiny, model, 3, start)
    session.detach()
    assert torch.equal(sample(tiny, model, 3, start), attached)
    early._diffusers_hook.remove_hook("early")
    late._diffusers_hook.remove_hook("late")
    assert torch.equal(sample(tiny, model, 3, start), sample(tiny, tiny.build(), 3, start))
