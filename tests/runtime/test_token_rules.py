"""Which tokens a refresh computes, and which keys and values it leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xslim
from tests.conformance.conftest import StackProbe
from tests.tiny import TINY, noise, sample
from xslim import Policy
from xslim.runtime.tokens import random_tokens, tokens_at

NAMES = ["DiTTransformer2DModel", "FluxTransformer2DModel"]


def pattern(steps: str, **token: object) -> Policy:
    return Policy.parse({"controller": {"kind": "pattern", "steps": steps}, "token": token})


def refreshed(name: str, steps: str, batch: int, **token: object) -> tuple[str, list[Tensor]]:
    """Actions, and at every step which tokens are not those of the prediction, [batch, tokens]."""
    tiny, policy = TINY[name], pattern(steps, **token)
    model = tiny.build()
    probe = StackProbe(model)
    with xslim.attach(model, policy, num_steps=len(steps)) as session:
        sample(tiny, model, len(steps), noise(tiny, batch))
    held = [probe.residual(max(step - 1, 0)) for step in range(len(steps))]
    changes = [probe.residual(step) - old for step, old in enumerate(held)]
    return session.trace.actions, [change.abs().amax(-1) > 1e-4 for change in changes]


@pytest.mark.parametrize("name", NAMES)
def test_random_tokens_are_the_same_for_all_samples_and_every_run(name: str) -> None:
    """One computed residual is enough: nothing has to be known of the tokens."""
    actions, tokens = refreshed(name, "FTTT", 3, select="random", budget=0.3)
    assert actions == "FTTT"
    policy = pattern("F", select="random", budget=0.3)
    total = TINY[name].tokens
    for step in (1, 2, 3):
        expected = torch.zeros(total, dtype=torch.bool)
        expected[random_tokens(total, policy, step, torch.device("cpu"))] = True
        assert expected.sum() == tokens_at(policy, total)
        assert torch.equal(tokens[step], expected.expand(3, -1))
    assert not torch.equal(tokens[1], tokens[2])
    alone, single = refreshed(name, "FTTT", 1, select="random", budget=0.3)
    assert alone == actions
    assert all(torch.equal(one[0], many[0]) for one, many in zip(single[1:], tokens[1:], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_by_change_need_two_residuals_and_are_each_samples_own(name: str) -> None:
    actions, tokens = refreshed(name, "FTFT", 3, budget=0.3)
    assert actions == "FFFT"
    assert len({tuple(row.tolist()) for row in tokens[3]}) > 1


def test_every_token_is_drawn_alike() -> None:
    policy = pattern("F", select="random", budget=0.25)
    drawn = torch.stack([random_tokens(16, policy, step, torch.device("cpu")) for step in range(2000)])
    counts = torch.bincount(drawn.flatten(), minlength=16)
    assert counts.sum() == 2000 * 4
    assert counts.min() > 400  # 500 expected, with a standard deviation of 19
    assert counts.max() < 600


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writes", [True, False])
def test_keys_and_values_of_the_full_step_stay_unless_they_are_written_back(name: str, writes: bool) -> None:
    tiny = TINY[name]
    model, kept = tiny.build(), []
    policy = pattern("FFTTT", budget=0.5, kv_writeback=writes)
    with xslim.attach(model, policy, num_steps=5) as session:

        def note(step: int, latent: Tensor) -> Tensor:
            if step >= 2:  # before a refresh
                (branch,) = session._request.branches.values()
                kept.append([tensor.clone() for tensor in branch.keys_values.tensors()])
            return latent

        latent = sample(tiny, model, 5, noise(tiny, 2), before=note)
    assert session.trace.actions == "FFTTT"
    assert torch.isfinite(latent).all()
    same = [torch.equal(old, new) for old, new in zip(kept[0], kept[2], strict=True)]
    assert all(same) if not writes else not any(same)
