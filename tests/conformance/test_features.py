"""What adapters read off a call: modulated input, embedding of time, timestep, latent."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import xslim
from tests.tiny import Tiny, noise, sample
from xslim import Policy
from xslim.runtime.calls import stacked
from xslim.runtime.model import LiveModel


def read(tiny: Tiny, model: nn.Module, time: float) -> dict[str, Tensor]:
    """Features of one call, and what the first block's attention really got."""
    live, found = LiveModel(model), {}

    def block(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        call = live.call(0, args, kwargs)
        found["modulated"] = live.modulated(call)
        found["embedding"] = live.time_embedding(call)

    def attention(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        found["received"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    handles = [
        live.blocks[0].register_forward_pre_hook(block, with_kwargs=True),
        tiny.attentions(model)[0].register_forward_pre_hook(attention, with_kwargs=True),
    ]
    with torch.no_grad():
        tiny.call(model, noise(tiny, 2), time)
    for handle in handles:
        handle.remove()
    return found


def test_modulated_is_what_the_first_attention_receives(tiny_call: Tiny, called_model: nn.Module) -> None:
    early, late = (read(tiny_call, called_model, time) for time in (1.0, 0.3))
    for found in (early, late):
        torch.testing.assert_close(found["modulated"], found["received"], rtol=1e-5, atol=1e-6)
        assert len(found["embedding"]) == 2
    assert (early["modulated"] - late["modulated"]).abs().max() > 1e-2
    assert (early["embedding"] - late["embedding"]).abs().max() > 1e-2


def test_timestep_is_the_schedulers(tiny_call: Tiny, called_model: nn.Module) -> None:
    live, seen = LiveModel(called_model), []

    def note(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        seen.append(live.adapter.timestep.read(live.root_call(args, kwargs)))

    handle = called_model.register_forward_pre_hook(note, with_kwargs=True)
    sample(tiny_call, called_model, 4, noise(tiny_call, 2))
    handle.remove()
    falling = [1000.0, 750.0, 500.0, 250.0]
    wanted = [1000 - t for t in falling] if live.adapter.timestep.rising else falling
    assert seen == pytest.approx(wanted, abs=1.0)  # DiT counts from 999


ROWS = 3


def test_all_that_has_a_batch_axis_is_named(tiny_call: Tiny, called_model: nn.Module) -> None:
    live = LiveModel(called_model)
    adapter = live.adapter
    assert {adapter.latent, adapter.conditioning, adapter.timestep.argument} <= set(live._root)
    passed: list[dict[str, object]] = [{} for _ in live.blocks]

    def note(index: int, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        passed[index] = {**dict(zip(live._names[index], args, strict=False)), **kwargs}

    handles = [
        block.register_forward_pre_hook(lambda _, args, kwargs, i=i: note(i, args, kwargs), with_kwargs=True)
        for i, block in enumerate(live.blocks)
    ]
    with torch.no_grad():
        tiny_call.call(called_model, noise(tiny_call, ROWS), 0.7)
    for handle in handles:
        handle.remove()
    for stack, arguments in zip(live.stacks, passed, strict=True):
        batched = {name for name, value in arguments.items() if any(map(_per_sample, tree_leaves(value)))}
        assert batched <= {stack.image, stack.text, *stack.row_arguments}
        assert {stack.image, stack.text or stack.image} <= batched
        assert stack.rotary is None or arguments[stack.rotary.argument] is not None
        assert set(stack.token_arguments) <= set(arguments)


def _per_sample(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] % ROWS == 0


def test_a_request_is_found_by_its_timesteps(tiny_call: Tiny, called_model: nn.Module) -> None:
    """A second request begins where time jumps back, whichever way it runs."""
    start = noise(tiny_call, 2)
    with xslim.attach(called_model, Policy.from_pattern("F.F."), num_steps=4) as session:
        sample(tiny_call, called_model, 4, start)
        sample(tiny_call, called_model, 4, start)
    assert [summary.actions for summary in session.requests] == ["F.F."] * 2


def test_lists_of_samples_are_stacked() -> None:
    a, b = torch.ones(2, 3), torch.zeros(2, 3)
    assert torch.equal(stacked([a, b]), torch.stack([a, b]))
    assert torch.equal(stacked([[b, a], [a, b]]), torch.stack([a, b]))  # pictures to edit come first
    ragged = stacked([a, torch.ones(2, 2)])
    assert ragged.tolist() == [[1.0] * 6, [1.0] * 4 + [0.0] * 2]
    assert stacked(a) is a
    with pytest.raises(TypeError, match="latent is a str"):
        stacked("x")


def test_counting_before_the_first_call_leaves_nothing_behind(tiny_call: Tiny) -> None:
    """Some models keep tables from their first call on; those of a count hold no numbers."""
    used, fresh, start = tiny_call.build(), tiny_call.build(), noise(tiny_call, 2)
    calls: list[tuple[object, object]] = []
    handle = used.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        wanted = tiny_call.call(used, start, 0.7)
        handle.remove()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="In CPU autocast")
            LiveModel(fresh).count_macs(2, *calls[0])
        assert torch.equal(tiny_call.call(fresh, start, 0.7), wanted)
