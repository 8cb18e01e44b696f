"""What every adapter has to hold; one tiny real model each."""

from __future__ import annotations

import pytest
import torch

import xslim
from tests.tiny import Tiny, noise, sample
from xslim import Policy
from xslim.runtime.model import LiveModel

STEPS = 8


def streams(live: LiveModel, block: int, args, kwargs, out, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image tokens that entered a block and that left it."""
    call = live.call(block, args, kwargs, tokens)
    return call.streams.image.clone(), call.unpack(out).image.clone()


def dual(critical: float, **controller: object) -> Policy:
    return Policy(controller={"kind": "dual-threshold", "critical": critical, **controller})


ALWAYS_FULL = {
    "critical 0": dual(0.0),
    "pattern of F": Policy.from_pattern("F" * STEPS),
    "interval 1": Policy(controller={"kind": "interval", "every": 1}),
}


@pytest.mark.parametrize("policy", ALWAYS_FULL.values(), ids=ALWAYS_FULL)
@pytest.mark.parametrize("batch", [1, 3])
def test_all_full_is_bit_exact(tiny: Tiny, policy: Policy, batch: int) -> None:
    model, start = tiny.build(), noise(tiny, batch)
    plain = sample(tiny, model, STEPS, start)
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        cached = sample(tiny, model, STEPS, start)
    assert torch.equal(plain, cached)
    assert session.trace.actions == "F" * STEPS
    measures_a_signal = policy.controller.kind == "dual-threshold"
    extra = session.trace.compute_fraction - 1.0
    assert 0.0 < extra < 0.2 if measures_a_signal else extra == 0.0


def test_the_samples_differ_between_steps_and_rows(tiny: Tiny) -> None:
    """Guards the suite itself: on a model that ignores time every reuse would pass."""
    model, start = tiny.build(), noise(tiny, 2)
    with torch.no_grad():
        early, late = tiny.call(model, start, 1.0), tiny.call(model, start, 0.3)
    assert (early - late).abs().max() > 1e-2
    assert (early[0] - early[1]).abs().max() > 1e-2


def test_hold_adds_the_last_computed_residual(tiny: Tiny, stack_probe) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    with xslim.attach(model, Policy.from_pattern("F..F."), num_steps=5):
        probe = stack_probe(model)
        sample(tiny, model, 5, start)
    for skipped, source in ((1, 0), (2, 0), (4, 3)):
        assert torch.equal(probe.outputs[skipped], probe.inputs[skipped] + probe.residual(source))


def test_newton_order_1_extrapolates_the_last_two_residuals(tiny: Tiny, stack_probe) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    policy = Policy.from_pattern("F.F..", predictor={"kind": "newton", "order": 1})
    with xslim.attach(model, policy, num_steps=5):
        probe = stack_probe(model)
        sample(tiny, model, 5, start)
    assert torch.equal(probe.outputs[1], probe.inputs[1] + probe.residual(0))  # one residual: plain reuse
    old, new = probe.residual(0), probe.residual(2)
    for step in (3, 4):
        line = new + (new - old) * (step - 2) / 2
        torch.testing.assert_close(probe.outputs[step], probe.inputs[step] + line, rtol=1e-5, atol=1e-5)


def test_a_newton_history_holds_computed_steps_only(tiny: Tiny, stack_probe) -> None:
    model, start = tiny.build(), noise(tiny, 1)
    policy = Policy.from_pattern("FF..F.", predictor={"kind": "newton", "order": 2})
    with xslim.attach(model, policy, num_steps=6):
        probe = stack_probe(model)
        sample(tiny, model, 6, start)
    # the parabola through steps 0, 1 and 4, at 5
    r0, r1, r4 = (probe.residual(step) for step in (0, 1, 4))
    expected = r0 * (4 * 1) / (1 * 4) - r1 * (5 * 1) / (1 * 3) + r4 * (5 * 4) / (4 * 3)
    torch.testing.assert_close(probe.outputs[5], probe.inputs[5] + expected, rtol=1e-4, atol=1e-4)


def test_block_refresh_with_threshold_0_equals_full(tiny: Tiny) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    plain = sample(tiny, model, 4, start)
    with xslim.attach(model, Policy.from_pattern("FBBF", block_threshold=0.0), num_steps=4) as session:
        cached = sample(tiny, model, 4, start)
    assert torch.equal(plain, cached)
    assert session.trace.actions == "FBBF"


def test_block_refresh_replays_what_it_does_not_compute(tiny: Tiny, block_counter) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    policy = Policy.from_pattern("FB", block_threshold=1e9, start_block=0)
    live = LiveModel(model)
    with xslim.attach(model, policy, num_steps=2) as session:
        counter = block_counter(tiny.attentions(model))
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        handles = [
            block.register_forward_hook(lambda m, args, kwargs, out, i=i: seen.append(
                streams(live, i, args, kwargs, out, tiny.tokens)
            ), with_kwargs=True)
            for i, block in enumerate(live.blocks)
        ]  # fmt: skip
        sample(tiny, model, 2, start)
    for handle in handles:
        handle.remove()
    first = {kind: live.kinds.index(kind) for kind in live.kinds}
    blocks = len(live.blocks)
    for block in range(blocks):
        replayed = block not in first.values()
        assert counter.rows[block] == (2 if replayed else 4)
        if replayed:
            (full_in, full_out), (refresh_in, refresh_out) = seen[block], seen[blocks + block]
            assert torch.equal(refresh_out, refresh_in + (full_out - full_in))
    assert session.trace.actions == "FB"
    assert 0.5 < session.trace.compute_fraction < 0.75


def test_token_refresh_of_all_tokens_equals_full(tiny: Tiny) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    plain = sample(tiny, model, 5, start)
    with xslim.attach(model, Policy.from_pattern("FFTTF", token_ratio=1.0), num_steps=5) as session:
        cached = sample(tiny, model, 5, start)
    assert session.trace.actions == "FFTTF"
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-5)
    assert session.trace.compute_fraction == pytest.approx(1.0)


def test_token_refresh_with_unchanged_inputs_equals_full(tiny: Tiny, stack_probe) -> None:
    """Half of the tokens, against kept keys and values of the same inputs, give the full output there."""
    model, start = tiny.build(), noise(tiny, 2)
    policy = Policy.from_pattern("FFT", token_ratio=0.5)
    with torch.no_grad(), xslim.attach(model, policy, num_steps=3) as session:
        probe = stack_probe(model)
        tiny.call(model, start, 0.9)
        tiny.call(model, start, 0.5)
        # the same latent, and the same time but for the last digit that tells the steps apart
        tiny.call(model, start, 0.49999)
    assert session.trace.actions == "FFT"
    torch.testing.assert_close(probe.outputs[2], probe.outputs[1], rtol=1e-2, atol=1e-2)
    changed = (probe.outputs[2] - probe.inputs[2] - probe.residual(1)).abs().amax(-1) > 0
    assert changed.sum(1).tolist() == [changed.shape[1] // 2] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["hold", "newton"])
def test_finite_in_every_dtype(tiny: Tiny, dtype: torch.dtype, kind: str) -> None:
    model, start = tiny.build().to(dtype), noise(tiny, 2, dtype=dtype)
    try:
        plain = sample(tiny, model, STEPS, start)
    except RuntimeError as error:
        pytest.skip(f"the uncached model does not run in {dtype} here: {error}")
    policy = Policy.from_pattern("FFF.BTF.", predictor=kind, start_block=0)
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        cached = sample(tiny, model, STEPS, start)
    assert cached.dtype == dtype
    assert torch.isfinite(cached).all()
    assert session.trace.actions == "FFF.BTF."
    assert not torch.equal(cached, plain)
    signals = Policy(
        controller={"kind": "dual-threshold", "critical": 2.0, "warmup": 2},
        indicator={"signals": {"modulated_input": 0.5, "latent_velocity": 0.5, "first_block": 0.2}},
        block={"budget": 0.5, "start_block": 0},
        predictor={"kind": kind},
    )
    with xslim.attach(model, signals, num_steps=STEPS) as session:
        assert torch.isfinite(sample(tiny, model, STEPS, start)).all()
    assert session.trace.nonfinite == 0


def test_blocks_run_are_those_of_the_trace(tiny: Tiny, block_counter) -> None:
    model, start = tiny.build(), noise(tiny, 3)
    table = [[1] * 6, [0] * 6, [1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1], [1] * 6]
    blocks = len(LiveModel(model).blocks)
    table = [(row * blocks)[:blocks] for row in table]
    with xslim.attach(model, Policy(controller={"kind": "table", "blocks": table}), num_steps=5) as session:
        counter = block_counter(tiny.attentions(model))
        sample(tiny, model, 5, start)
    assert session.trace.actions == "F.BBF"
    assert counter.rows == [3 * sum(column) for column in zip(*table, strict=True)]
    assert [r.decisions[0].compute_blocks for r in session.trace.records[2:4]] == [
        tuple(flag == 1 for flag in row) for row in table[2:4]
    ]


def test_full_and_skip_steps_run_all_and_no_blocks(tiny: Tiny, block_counter) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    with xslim.attach(model, dual(0.6, polish=[], warmup=2), num_steps=STEPS) as session:
        counter = block_counter(tiny.attentions(model))
        sample(tiny, model, STEPS, start)
    full = session.trace.count(xslim.policy.decision.Action.FULL)
    assert 0 < full < 2 * STEPS
    assert counter.rows == [full] * len(counter.rows)


def test_detach_restores_the_model_exactly(tiny: Tiny) -> None:
    model, start = tiny.build(), noise(tiny, 2)
    before = snapshot(model)
    plain = sample(tiny, model, 4, start)
    session = xslim.attach(model, Policy.from_pattern("F..F"), num_steps=4)
    assert not torch.equal(sample(tiny, model, 4, start), plain)
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


def test_hooks_of_others_keep_working(tiny: Tiny) -> None:
    model, start = tiny.build(), noise(tiny, 1)
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


def test_anothers_diffusers_hook_survives_whichever_came_first(tiny: Tiny) -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    class Doubler(ModelHook):
        def post_forward(self, module: torch.nn.Module, output: object) -> object:
            return output * 2 if isinstance(output, torch.Tensor) else tuple(part * 2 for part in output)

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
