"""Learned tables: what a block mixes, the gradient of its logit, and where a price leads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import xslim
from autotune.scoring.case import Case
from autotune.scoring.harmonica import Router, learn_table, step_loss
from autotune.scoring.mixing import Mixer, mix
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from tests.scoring import families
from xslim.policy.policy import Policy
from xslim.runtime.calls import Streams

CASES = (Case(1, 1), Case(2, 2))
STEPS = families.STEPS


@pytest.fixture(scope="module")
def tiny(specs: dict[str, ModelSpec]) -> PipelineRunner:
    return PipelineRunner(specs["dit"])


def test_the_gradient_of_a_logit_by_hand() -> None:
    """1 enters; 3 are added now, 1 before. At w = 1/2 a block leaves 3 where 4 are right: an error of 1.

    d error / dw = -2 (4 - 3) (3 - 1) = -4, twice weighed; the price adds 0.5 * 0.75; dw / dlogit = 1/4.
    """
    logit = nn.Parameter(torch.zeros(1))
    entered, fresh, cached = (torch.full((1, 1, 1), value) for value in (1.0, 4.0, 1.0))
    out = mix(
        Streams(entered, 2 * entered),
        Streams(fresh, 2 * fresh),
        Streams(cached, 2 * cached),
        logit.sigmoid()[0],
    )
    assert out.image.item() == 3.0
    assert out.text is not None
    assert out.text.item() == 6.0
    error = (fresh - out.image).square().mean()
    loss = step_loss(error, logit.sigmoid(), torch.tensor([0.75]), torch.tensor(2.0), beta=0.5)
    assert loss.item() == 2.0 + 0.5 * 0.75 * 0.5
    loss.backward()
    assert float(logit.grad) == pytest.approx((2.0 * -4.0 + 0.5 * 0.75) / 4)


@pytest.mark.parametrize("name", ["flux", "hunyuan", "wan"])
def test_weights_of_0_and_1_do_what_a_table_does(load: Callable[[str], PipelineRunner], name: str) -> None:
    """Both streams of every family, and each call of a step for itself."""
    runner = load(name)
    seen: list[tuple[int, Tensor, Tensor]] = []
    table: list[tuple[int, ...]] = []
    mixer = Mixer(runner, lambda step: torch.tensor(table[step]).float(), lambda *told: seen.append(told))
    blocks = len(mixer.model.blocks)
    table += [(1,) * blocks, *(tuple((step + b) % 2 for b in range(blocks)) for step in range(1, STEPS))]
    plain = runner.draw(families.CASES).latents
    with mixer.installed():
        mixed = runner.draw(families.CASES).latents
    policy = Policy.parse({"controller": {"kind": "table", "blocks": table}})
    with xslim.attach(runner.pipe, policy, num_steps=STEPS):
        cached = runner.draw(families.CASES).latents
    torch.testing.assert_close(mixed, cached, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(runner.draw(families.CASES).latents, plain)
    assert [step for step, *_ in seen] == [s for s in range(1, STEPS) for _ in range(families.CALLS[name])]
    _, full, output = seen[0]
    assert full.shape == output.shape
    assert not torch.equal(full, output)


def test_without_a_price_all_is_computed_and_a_high_price_leaves_the_first_step(tiny: PipelineRunner) -> None:
    blocks = len(Mixer(tiny, lambda step: torch.ones(1), lambda *_: None).model.blocks)
    assert learn_table(tiny, CASES, beta=0.0, rollouts=4, pictures=2) == ((1,) * blocks,) * STEPS
    cheapest = ((1,) * blocks, *((0,) * blocks,) * (STEPS - 1))
    assert learn_table(tiny, CASES, beta=1e3, rollouts=2, pictures=2) == cheapest
    assert all(parameter.requires_grad for parameter in tiny.pipe.transformer.parameters())


def test_a_seed_gives_one_table_and_a_stop_ends_it(tiny: PipelineRunner) -> None:
    routers = [Router(tiny, 1e-3, 0.5) for _ in range(2)]
    errors = [[router.roll(CASES) for _ in range(2)] for router in routers]
    assert errors[0] == errors[1]
    assert errors[0][0] > 0
    logits = [torch.stack(list(router.logits)).detach() for router in routers]
    assert torch.equal(*logits)
    assert not logits[0][0].any()  # the first step is not learned
    assert logits[0][1:].abs().max() <= 1.01  # two steps of the optimiser, at most half a unit each
    asked: list[bool] = []
    learn_table(tiny, CASES, 1e-3, 9, 2, stop=lambda: bool(asked.append(True)) or len(asked) > 1)
    assert len(asked) == 2


def test_steps_weigh_by_what_their_row_changes_in_the_end(tiny: PipelineRunner) -> None:
    router = Router(tiny, 1e-3, 0.5)
    with torch.no_grad():
        for row, value in zip(router.logits[1:], (-1.0, 1.0, -1.0), strict=True):
            row.fill_(value)
    router.weigh_steps(CASES)
    policies = [
        Policy.parse({"controller": {"kind": "pattern", "steps": s}}) for s in ("FFFF", "F.FF", "F.F.")
    ]
    latents = []
    for policy in policies:
        with xslim.attach(tiny.pipe, policy, num_steps=STEPS):
            latents.append(tiny.draw(CASES).latents)
    first, second = (float((b - a).square().mean()) for a, b in pairwise(latents))
    mean = (first + second) / 2
    expected = [1.0, first / mean, 1.0, second / mean]
    assert router.importance.tolist() == pytest.approx([min(10.0, max(0.1, e)) for e in expected], rel=1e-3)
