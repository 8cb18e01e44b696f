"""What block and token refreshes have to hold on every adapter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import xslim
from tests.conformance.conftest import fitting
from tests.tiny import TINY, Tiny, noise, sample
from tests.tiny.image import call_sd3
from xslim import Policy
from xslim.errors import UnsupportedModelError
from xslim.runtime.calls import Streams
from xslim.runtime.model import LiveModel

Seen = list[tuple[Streams, Streams]]


class BlockProbe:
    """Notes both streams at every block: what entered and what left."""

    def __init__(self, model: nn.Module, tokens: int) -> None:
        live = LiveModel(model)
        self.seen: list[Seen] = [[] for _ in live.blocks]
        self._inputs: dict[int, Streams] = {}

        def enter(index: int, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            streams = live.call(index, args, kwargs, tokens).streams
            self._inputs[index] = streams.map(torch.clone)

        def leave(index: int, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            left = live.call(index, args, kwargs, tokens).unpack(output)
            self.seen[index].append((self._inputs[index], left.map(torch.clone)))

        self.handles = [
            handle
            for i, block in enumerate(live.blocks)
            for handle in (
                block.register_forward_pre_hook(
                    lambda _, args, kwargs, i=i: enter(i, args, kwargs), with_kwargs=True
                ),
                block.register_forward_hook(
                    lambda _, args, kwargs, out, i=i: leave(i, args, kwargs, out), with_kwargs=True
                ),
            )
        ]


def test_block_refresh_of_all_blocks_equals_full(tiny: Tiny, model: nn.Module) -> None:
    start = noise(tiny, 2)
    plain = sample(tiny, model, 4, start)
    with xslim.attach(model, Policy.from_pattern("FBBF", block_threshold=0.0), num_steps=4) as session:
        cached = sample(tiny, model, 4, start)
    assert torch.equal(plain, cached)
    assert session.trace.actions == "FBBF"
    assert session.trace.compute_fraction == 1.0


def test_block_replay_adds_the_stored_residual_of_both_streams(
    tiny: Tiny, model: nn.Module, block_counter
) -> None:
    policy = Policy.from_pattern("FB", block_threshold=1e9, start_block=0)
    live = LiveModel(model)
    with xslim.attach(model, policy, num_steps=2) as session:
        counter = block_counter(tiny.attentions(model))
        probe = BlockProbe(model, tiny.tokens)
        sample(tiny, model, 2, noise(tiny, 2))
    for handle in probe.handles:
        handle.remove()
    first = {live.kinds.index(kind) for kind in live.kinds}
    for block, ((full_in, full_out), (refresh_in, refresh_out)) in enumerate(probe.seen):
        replayed = block not in first
        assert counter.rows[block] == (2 if replayed else 4)
        if replayed:
            assert torch.equal(refresh_out.image, refresh_in.image + (full_out.image - full_in.image))
            if full_out.text is not None and refresh_in.text is not None and full_in.text is not None:
                assert refresh_out.text is not None
                assert torch.equal(refresh_out.text, refresh_in.text + (full_out.text - full_in.text))
                assert block == len(live.blocks) - 1 or not torch.equal(refresh_out.text, refresh_in.text)
    assert session.trace.actions == "FB"
    assert 0.5 < session.trace.compute_fraction < 0.85


def test_the_blocks_of_a_table_are_those_that_run(tiny: Tiny, model: nn.Module, block_counter) -> None:
    blocks = len(LiveModel(model).blocks)
    table = [[1], [0], [1, 0], [0, 1, 1], [1]]
    table = [(row * blocks)[:blocks] for row in table]
    with xslim.attach(model, Policy(controller={"kind": "table", "blocks": table}), num_steps=5) as session:
        counter = block_counter(tiny.attentions(model))
        sample(tiny, model, 5, noise(tiny, 2))
    assert session.trace.actions == "F.BBF"
    assert counter.rows == [2 * sum(column) for column in zip(*table, strict=True)]
    assert [r.decisions[0].compute_blocks for r in session.trace.records[2:4]] == [
        tuple(flag == 1 for flag in row) for row in table[2:4]
    ]


def test_token_refresh_of_all_tokens_equals_full(tiny_call: Tiny, called_model: nn.Module) -> None:
    start = noise(tiny_call, 2)
    pattern = fitting(called_model, "FFTTF")
    policy = Policy.from_pattern(pattern, token_ratio=1.0, block_threshold=0.0)
    plain = sample(tiny_call, called_model, 5, start)
    with xslim.attach(called_model, policy, num_steps=5) as session:
        cached = sample(tiny_call, called_model, 5, start)
    assert session.trace.actions == pattern
    assert len(session.requests) == 1
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-5)
    assert session.trace.compute_fraction == pytest.approx(1.0)


def test_token_refresh_with_unchanged_inputs_equals_full(
    tiny_call: Tiny, called_model: nn.Module, stack_probe
) -> None:
    """Half of the tokens, against kept keys and values of the same inputs, give the full output there."""
    start = noise(tiny_call, 2)
    live = LiveModel(called_model)
    if live.no_tokens is not None:
        pytest.skip(live.no_tokens)
    policy = Policy.from_pattern("FFT", token_ratio=0.5)
    with torch.no_grad(), xslim.attach(called_model, policy, num_steps=3) as session:
        probe = stack_probe(called_model)
        tiny_call.call(called_model, start, 0.9)
        tiny_call.call(called_model, start, 0.5)
        # the same latent, and the same time but for the last digit that tells the steps apart
        tiny_call.call(called_model, start, 0.499999)
    assert session.trace.actions == "FFT"
    torch.testing.assert_close(probe.outputs[2], probe.outputs[1], rtol=1e-2, atol=3e-3)
    changed = (probe.outputs[2] - probe.inputs[2] - probe.residual(1)).abs().amax(-1) > 0
    assert changed.sum(1).tolist() == [changed.shape[1] // 2] * 2
    full, refresh = (record.macs for record in session.trace.records[1:])
    assert refresh < full


def test_a_block_that_a_call_leaves_out_is_neither_run_nor_counted() -> None:
    """Skip-layer guidance calls the transformer without some blocks."""
    tiny = replace(TINY["SD3Transformer2DModel"], call=partial(call_sd3, skip_layers=[1]))
    model, start = tiny.build(), noise(tiny, 2)
    whole = LiveModel(model).count_macs(2, (start,), {**_sd3_conditioning(), "skip_layers": None})
    plain = sample(tiny, model, 4, start)
    with xslim.attach(model, Policy.from_pattern("FFFF"), num_steps=4) as session:
        assert torch.equal(sample(tiny, model, 4, start), plain)
    assert session.trace.compute_fraction == 1.0
    assert session.trace.records[0].full_macs == 2 * (whole.total - whole.blocks[1].full)
    policy = Policy.from_pattern("F.B.", block_threshold=1e9, start_block=0)
    with xslim.attach(model, policy, num_steps=4) as session:
        assert torch.isfinite(sample(tiny, model, 4, start)).all()
    assert session.trace.actions == "F.B."


def _sd3_conditioning() -> dict[str, torch.Tensor]:
    return {
        "encoder_hidden_states": torch.zeros(2, 5, 16),
        "pooled_projections": torch.zeros(2, 8),
        "timestep": torch.zeros(2),
    }


def test_a_policy_with_token_refreshes_is_refused_where_they_do_not_work(
    tiny: Tiny, model: nn.Module
) -> None:
    reason = LiveModel(model).no_tokens
    if reason is None:
        xslim.attach(model, Policy.from_pattern("FFT"), num_steps=3).detach()
    else:
        with pytest.raises(UnsupportedModelError, match=reason):
            xslim.attach(model, Policy.from_pattern("FFT"), num_steps=3)
        interval = Policy(controller={"kind": "interval", "every": 2, "between": ["token"]})
        with pytest.raises(UnsupportedModelError, match=r"leave token out of controller\.between"):
            xslim.attach(model, interval, num_steps=3)


def test_held_bytes_are_those_of_the_formula(tiny: Tiny, model: nn.Module) -> None:
    """Stack residuals times history; block residuals and keys and values while a refresh may follow."""
    live, rows, item = LiveModel(model), 2, 4
    held: dict[str, list[int]] = {}
    probe = BlockProbe(model, tiny.tokens)
    patterns = (("F.F.", "hold"), ("FFF.", "newton"), ("FBF.", "hold"), ("FFTF.", "hold"))
    for pattern, predictor in patterns[: 4 if live.no_tokens is None else 3]:
        seen: list[int] = []
        policy = Policy.from_pattern(pattern, predictor=predictor, block_threshold=1e9, start_block=0)
        with xslim.attach(model, policy, num_steps=len(pattern)) as session:
            sample(
                tiny, model, len(pattern), noise(tiny, rows),
                before=lambda _, x, session=session, seen=seen: seen.append(session.held_bytes) or x,
            )  # fmt: skip
            assert session.held_bytes == 0
        held[pattern] = seen
    for handle in probe.handles:
        handle.remove()
    streams = [block_seen[0][0] for block_seen in probe.seen]
    stack = streams[0].image.numel() * item
    slack = rows * (8 * tiny.tokens + 4 * len(live.blocks)) * item  # numbers a token, a block or a sample
    assert held["F.F."][1] <= stack + slack
    assert held["F.F."][1] >= stack
    assert 2 * stack <= held["FFF."][3] <= 2 * stack + slack
    first = {live.kinds.index(kind) for kind in live.kinds}
    blocks = sum(
        sum(part.numel() for part in entered if part is not None) * item
        for index, entered in enumerate(streams)
        if index not in first
    )
    assert held["FBF."][1] <= blocks + stack + slack
    assert held["FBF."][3] <= stack + slack  # dropped, since no block refresh follows
    if live.no_tokens is None:
        calls = sum(_attention_calls(live, index) for index in range(len(live.blocks)))
        sequence = max(sum(part.shape[1] for part in s if part is not None) for s in streams)
        keys_values = calls * 2 * rows * sequence * streams[0].image.shape[-1] * item
        assert held["FFTF."][2] <= keys_values + 2 * stack + slack
        assert held["FFTF."][2] > keys_values / 2
        assert held["FFTF."][4] <= 2 * stack + slack  # dropped, since no token refresh follows


def _attention_calls(live: LiveModel, index: int) -> int:
    """Attention calls of a block over its own tokens."""
    return sum(kind != "cross" for kind in live.stacks[index].attention)
