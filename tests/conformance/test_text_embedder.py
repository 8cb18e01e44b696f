"""Text that no block reads is not embedded: its module is left out at skipped steps, and counted so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import xslim
from autotune.scoring.cost_count import Subject, count_cost
from tests.tiny import TINY, Tiny, noise, sample
from xslim import Policy
from xslim.runtime.adapters import ADAPTERS
from xslim.runtime.branch import TextShape
from xslim.runtime.model import LiveModel

STEPS = 6
WITH = [name for name, adapter in ADAPTERS.items() if adapter.text_embedder is not None]


@pytest.fixture(params=sorted(WITH))
def refined(request: pytest.FixtureRequest) -> Tiny:
    """The tiny models whose adapters name such a module."""
    return TINY[request.param]


def text_calls(model: nn.Module) -> list[int]:
    """Count what really runs inside of the embedder, by a plain torch hook on its first layer."""
    calls: list[int] = []
    embedder = LiveModel(model).text_embedder
    assert embedder is not None
    inside = next(module for module in embedder.modules() if isinstance(module, nn.Linear))
    inside.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_it_runs_only_where_a_block_runs(refined: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A placeholder of NaN changes nothing, so nobody reads it."""
    model = refined.build()
    policy = Policy.from_pattern("F.F..F", predictor="newton")
    start = noise(refined, 2)
    calls = text_calls(model)
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        first = sample(refined, model, STEPS, start)
    assert len(calls) == 3

    def poison(shape: TextShape) -> Tensor:
        return torch.full(shape.shape, torch.nan, dtype=shape.dtype, device=shape.device)

    monkeypatch.setattr(TextShape, "placeholder", poison)
    with xslim.attach(model, policy, num_steps=STEPS):
        second = sample(refined, model, STEPS, start)
    assert torch.equal(first, second)
    table = LiveModel(model).count_macs(2, *called(refined, model, start))
    assert 0 < table.text < table.outside
    for record in session.trace.records:
        expected = table.total if record.actions == "FF" else table.outside - table.text
        assert record.macs == pytest.approx(2 * expected)


def called(tiny: Tiny, model: nn.Module, start: Tensor) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of one call."""
    seen: list[tuple[tuple[object, ...], dict[str, object]]] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        tiny.call(model, start, 1.0)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("steps", ["FB.BF.", "FFT.T."])
def test_refreshes_read_it(refined: Tiny, steps: str) -> None:
    model = refined.build()
    calls = text_calls(model)
    with xslim.attach(model, Policy.from_pattern(steps), num_steps=STEPS) as session:
        sample(refined, model, STEPS, noise(refined, 2))
    assert session.trace.actions == steps
    assert len(calls) == 4


def test_signals_are_measured_at_the_first_block_and_need_it(refined: Tiny) -> None:
    model = refined.build()
    calls = text_calls(model)
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 0.6, "warmup": 2, "polish": []},
        indicator={"signals": {"first_block": 1.0}},
    )
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        sample(refined, model, STEPS, noise(refined, 1))
    assert "." in session.trace.actions
    assert len(calls) == STEPS


def test_it_runs_again_after_detaching(refined: Tiny) -> None:
    model = refined.build()
    start, calls = noise(refined, 2), text_calls(model)
    plain = sample(refined, model, STEPS, start)
    with xslim.attach(model, Policy.from_pattern("F....."), num_steps=STEPS):
        sample(refined, model, STEPS, start)
    assert len(calls) == STEPS + 1
    assert torch.equal(sample(refined, model, STEPS, start), plain)
    assert len(calls) == 2 * STEPS + 1


def test_signals_of_tables_decide_before_it(refined: Tiny) -> None:
    model = refined.build()
    calls = text_calls(model)
    policy = Policy.parse(
        {
            "controller": {
                "kind": "dual-threshold",
                "critical": 0.5,
                "warmup": 1,
                "cooldown": 0,
                "polish": [],
            },
            "indicator": {
                "signals": {"step_table": 1.0},
                "calibration": {"step_table": {"x": [0.0, 1.0], "y": [1.0, 1.5]}},
            },
        }
    )
    start = noise(refined, 1)
    subject = Subject(model, lambda n: sample(refined, model, n, start), STEPS, 1, torch.device("cpu"))
    cost = count_cost(subject)
    calls.clear()
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        sample(refined, model, STEPS, start)
    actions = session.trace.actions
    assert {"F", "."} == set(actions)
    assert len(calls) == actions.count("F")
    assert cost.compute_fraction(policy, actions) == pytest.approx(session.trace.compute_fraction, rel=1e-9)


def test_a_step_that_leaves_out_the_first_block_is_not_computed_without_text(refined: Tiny) -> None:
    """Zeros in place of the text must not reach a block."""
    model = refined.build()
    live = LiveModel(model)
    first = live.blocks[0]
    start = noise(refined, 1)
    with xslim.attach(model, Policy.from_pattern("F.FFFF"), num_steps=STEPS):
        hooked, ran = first.forward, []

        def only_once(*args: object, **kwargs: object) -> object:
            ran.append(1)
            if len(ran) == 2:  # the skipped step goes past the hook
                call = live.call(0, args, kwargs)
                return call.pack(call.streams)
            return hooked(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first, "forward", only_once)
            with pytest.raises(RuntimeError, match="first block was left out at a step whose text"):
                sample(refined, model, STEPS, start)
