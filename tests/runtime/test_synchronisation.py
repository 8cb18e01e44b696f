"""The host waits for the device only where the documentation says so.

There is no device here that could be waited for: what is counted are the reads of tensors by Python code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import xslim
from tests.pipelines import draw, flux_pipeline, negative
from xslim import Policy

READS = {
    Tensor.item, Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__, Tensor.tolist,
    Tensor.numpy, Tensor.cpu, torch.equal, torch.allclose, torch.nonzero, Tensor.nonzero,
}  # fmt: skip


class Reads(TorchFunctionMode):
    """Counts reads of tensors, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in READS:
            self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def reads(policy: Policy | None, steps: int, guidance: bool) -> Counter[str]:
    """Reads during the second request of a session; the first one counts the cost and checks the blocks."""
    pipe = flux_pipeline()
    extra = negative() if guidance else {}
    if policy is not None:
        xslim.attach(pipe, policy, num_steps=steps)
    draw(pipe, steps, **extra)
    with Reads() as found:
        draw(pipe, steps, **extra)
    return found.counts


def added(policy: Policy, steps: int, guidance: bool) -> Counter[str]:
    """Reads that the runtime adds to those of the pipeline."""
    ours = reads(policy, steps, guidance)
    ours.subtract(reads(None, steps, guidance))
    return ours


def pattern(steps: int) -> Policy:
    return Policy.from_pattern(("FF.T.." * steps)[:steps], predictor={"kind": "newton", "order": 1})


@pytest.mark.parametrize("guidance", [False, True])
def test_a_static_pattern_reads_nothing_step_by_step(guidance: bool) -> None:
    """The scheduler counts its steps; `tolist` is the NaN guard, which a GPU does not wait for."""
    short, long = added(pattern(6), 6, guidance), added(pattern(18), 18, guidance)
    assert short["__float__"] > 0  # the first timestep of a request
    for name in {read.__name__ for read in READS} - {"tolist"}:
        assert long[name] == short[name], name


def test_a_transformer_without_its_scheduler_reads_a_timestep_a_step() -> None:
    steps, pipe = 6, flux_pipeline()
    with Reads() as plain:
        draw(pipe, steps)
    with xslim.attach(pipe.transformer, pattern(steps), num_steps=steps):
        draw(pipe, steps)
        with Reads() as found:
            draw(pipe, steps)
    assert found.counts["__float__"] - plain.counts["__float__"] == steps


@pytest.mark.parametrize("guidance", [False, True])
def test_an_online_policy_reads_once_a_step_and_branch(guidance: bool) -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 0.5, "polish": []},
        indicator={"signals": {"modulated_input": 0.6, "latent_velocity": 0.2, "timestep_embedding": 0.2}},
        predictor={"kind": "pade"},
    )
    short, long = added(policy, 6, guidance), added(policy, 18, guidance)
    grown = Counter({name: long[name] - short[name] for name in long})
    assert 0 < grown.pop("tolist") <= 12 * (1 + guidance)
    assert not any(grown.values())
