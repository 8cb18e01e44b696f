"""A pattern compiled from an online run does the same work and gives the same tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import xslim
from tests.tiny import TINY, Tiny, noise, sample
from xslim import Policy
from xslim.policy.policy import SIGNALS, TABLE_SIGNALS
from xslim.policy.schedule import compile_static

STEPS = 24
TABLES = {name: {"x": [0.0, 1.0], "y": [1.0, 2.0]} for name in TABLE_SIGNALS}


def online(**changes: object) -> Policy:
    """A policy of all signals that takes all four actions on the tiny models."""
    controller = {"kind": "dual-threshold", "critical": 2.0, "warning_fraction": 0.4, "warmup": 3}
    return Policy(
        controller={**controller, "relief": {"block": 0.6, "token": 0.6}},
        indicator={"signals": dict.fromkeys(SIGNALS, 1 / len(SIGNALS)), "calibration": TABLES},
        block={"budget": 0.5, "start_block": 0},
        **changes,
    )


def run(tiny: Tiny, model: nn.Module, policy: Policy) -> tuple[Tensor, str]:
    with xslim.attach(model, policy, num_steps=STEPS) as session:
        result = sample(tiny, model, STEPS, noise(tiny, 1))
    return result, session.trace.actions


@pytest.mark.parametrize("parity", [None, "authors"])
@pytest.mark.parametrize(
    "name", ["DiTTransformer2DModel", "FluxTransformer2DModel", "HunyuanVideoTransformer3DModel"]
)
def test_a_compiled_run_gives_the_same_tensors(name: str, parity: str | None) -> None:
    tiny = TINY[name]
    model, policy = tiny.build(), online(parity=parity)
    expected, actions = run(tiny, model, policy)
    assert set(actions) == {"F", "B", "T", "."}, actions
    found, again = run(tiny, model, compile_static(policy, actions))
    assert again == actions
    assert torch.equal(found, expected)
