"""The counted cost of a DiT, against the sum done by hand."""

from __future__ import annotations

import pytest
import torch

import xslim
from tests.tiny import LAYERS, TINY, TOKENS, WIDTH, dit, noise, sample
from xslim import Policy
from xslim.runtime.model import LiveModel

D, N, PATCH = WIDTH, TOKENS, 4  # width, tokens, values in a patch
EMBEDDER = 256 * D + D * D  # sinusoid of 256 -> width -> width
MODULATION = EMBEDDER + D * 6 * D
QUERIES_AND_MLP = D * D + D * D + 2 * D * 4 * D  # to_q, to_out, two feed-forward layers; per token
KEYS_VALUES = 2 * D * D  # per token
ATTENTION = 2 * N * D  # per query: scores and values, against all tokens
BLOCK = MODULATION + N * (QUERIES_AND_MLP + KEYS_VALUES + ATTENTION)
OUTSIDE = N * PATCH * D + EMBEDDER + D * 2 * D + N * D * PATCH
TOTAL = OUTSIDE + LAYERS * BLOCK


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return dit()


def fraction(model: torch.nn.Module, policy: Policy, steps: int, batch: int = 2) -> float:
    tiny = TINY["DiTTransformer2DModel"]
    with xslim.attach(model, policy, num_steps=steps) as session:
        sample(tiny, model, steps, noise(tiny, batch))
    assert all(r.full_macs == batch * TOTAL for r in session.trace.records)
    return session.trace.compute_fraction


def test_live_model_counts_every_block(model: torch.nn.Module) -> None:
    latent = torch.randn(3, 1, 8, 8)
    kwargs = {"timestep": torch.tensor([5, 5, 5]), "class_labels": torch.tensor([1, 2, 3])}
    table = LiveModel(model).count_macs(3, (latent,), kwargs)
    assert table.total == TOTAL
    assert [block.full for block in table.blocks] == [BLOCK] * LAYERS
    assert table.blocks[0].fixed == MODULATION
    assert table.blocks[0].at(N // 2) == MODULATION + (BLOCK - MODULATION) / 2
    assert (table.modulation, table.embedding) == (MODULATION, EMBEDDER)
    assert table.outside == OUTSIDE


def test_skips_cost_the_embedders(model: torch.nn.Module) -> None:
    expected = (2 * TOTAL + 2 * OUTSIDE) / (4 * TOTAL)
    assert fraction(model, Policy.from_pattern("F.F."), 4) == pytest.approx(expected)


def test_block_refresh_costs_the_computed_blocks(model: torch.nn.Module) -> None:
    policy = Policy.from_pattern("FB", block_threshold=1e9, start_block=1)
    expected = (TOTAL + OUTSIDE + 2 * BLOCK) / (2 * TOTAL)
    assert fraction(model, policy, 2) == pytest.approx(expected)


def test_token_refresh_costs_the_chosen_tokens(model: torch.nn.Module) -> None:
    policy = Policy.from_pattern("FFT", token_ratio=0.25)
    refresh = OUTSIDE + LAYERS * (MODULATION + (BLOCK - MODULATION) * 0.25)
    assert fraction(model, policy, 3) == pytest.approx((2 * TOTAL + refresh) / (3 * TOTAL))


def test_signals_cost_what_they_read(model: torch.nn.Module) -> None:
    def policy(signal: str) -> Policy:
        return Policy(
            controller={"kind": "dual-threshold", "critical": 1e9, "warmup": 1},
            indicator={"signals": {signal: 1.0}},
        )

    # steps: full, then no signal has a value or all skip, then the cool-down is full
    modulated = fraction(model, policy("modulated_input"), 4)
    assert modulated == pytest.approx((2 * TOTAL + 2 * OUTSIDE + 4 * MODULATION) / (4 * TOTAL))
    embedded = fraction(model, policy("timestep_embedding"), 4)
    assert embedded == pytest.approx((2 * TOTAL + 2 * OUTSIDE + 4 * EMBEDDER) / (4 * TOTAL))
    probed = fraction(model, policy("first_block"), 4)  # full steps use the probe as their first block
    assert probed == pytest.approx((2 * TOTAL + 2 * (OUTSIDE + BLOCK)) / (4 * TOTAL))


def test_counting_leaves_the_random_state_and_the_model_alone() -> None:
    model = dit().train()  # label dropout draws random numbers
    state = torch.get_rng_state()
    names = {name: list(module.__dict__) for name, module in model.named_modules()}
    latent = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kwargs = {"timestep": torch.tensor([5]), "class_labels": torch.tensor([1])}
    LiveModel(model).count_macs(1, (latent,), kwargs)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: list(module.__dict__) for name, module in model.named_modules()} == names
