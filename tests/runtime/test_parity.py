"""`parity: authors` against the authors' code written out, at every step of their schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xslim
from tests.runtime.authors import (
    Authors,
    Entered,
    FluxProcessor,
    HunyuanProcessor,
    Refresh,
    enter_flux,
    enter_hunyuan_video,
)
from tests.tiny import TINY, Tiny, noise
from tests.tiny.flux import flux
from tests.tiny.video import hunyuan_video
from xslim import Policy
from xslim.errors import ConfigError
from xslim.policy.authors import author_policy

EVERY_PAIR = "FFBFTF.BBTB.TT..F"
BATCH = 2


@dataclass(frozen=True)
class Family:
    """A tiny model of one family, and its authors' names.

    Attributes:
        published: name of the authors' schedules.
        build: the model, with blocks beyond `start_block` in both kinds.
        enter: what it does before its blocks.
        processor: (refresh, model) -> its attention, written out.
        thresholds: with them some of the blocks beyond `start_block` are replayed.
    """

    tiny: Tiny
    published: str
    build: Callable[[], Any]
    enter: Callable[..., Entered]
    processor: Callable[[Refresh], object]
    thresholds: dict[str, float]


FAMILIES = {
    "flux": Family(
        TINY["FluxTransformer2DModel"],
        "flux.1-dev",
        lambda: flux(num_layers=7, num_single_layers=7).double(),
        enter_flux,
        lambda refresh: FluxProcessor(refresh, text_tokens=4),
        {"double": 0.22, "single": 0.12},
    ),
    "hunyuan_video": Family(
        TINY["HunyuanVideoTransformer3DModel"],
        "hunyuanvideo",
        lambda: hunyuan_video(num_layers=7, num_single_layers=7).double(),
        enter_hunyuan_video,
        lambda refresh: HunyuanProcessor(refresh, image_tokens=32),
        {"double": 0.22, "single": 0.12},
    ),
}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def scaled(family: Family, policy: Policy) -> Policy:
    """The policy with block thresholds that suit the tiny model."""
    block = {"threshold": family.thresholds, "start_block": policy.block.start_block}
    return Policy.parse({**policy.to_data(), "block": block})


def sampled(steps: int, latent: Tensor, call: Callable[[int, Tensor, float], Tensor]) -> list[Tensor]:
    """Outputs of an Euler loop."""
    outputs = []
    for step in range(steps):
        outputs.append(call(step, latent, 1 - step / steps))
        latent = latent - outputs[-1] / steps
    return outputs


@dataclass
class Ours:
    """A run under `attach`.

    Attributes:
        outputs: of the transformer.
        stack: O_s, what entered the output layers.
        known: step -> steps of the residuals known before it, newest first.
    """

    outputs: list[Tensor]
    stack: list[Tensor]
    known: dict[int, list[list[float]]]
    actions: tuple[str, ...]


@torch.no_grad()
def run_ours(family: Family, model: nn.Module, policy: Policy, latent: Tensor) -> Ours:
    steps = len(policy.controller.steps)
    stack: list[Tensor] = []
    known: dict[int, list[list[float]]] = {}
    handle = model.norm_out.register_forward_pre_hook(lambda module, args: stack.append(args[0].clone()))
    with xslim.attach(model, policy, num_steps=steps) as session:

        def call(step: int, x: Tensor, time: float) -> Tensor:
            if step:
                (branch,) = session._request.branches.values()
                known[step] = [list(times) for times in branch.history.times]
            return family.tiny.call(model, x, time)

        outputs = sampled(steps, latent, call)
    handle.remove()
    return Ours(outputs, stack, known, session.trace.all_actions)


@torch.no_grad()
def run_authors(family: Family, policy: Policy, latent: Tensor, row: int) -> tuple[list[Tensor], Authors]:
    """One sample of the batch, by the authors' code."""
    model, refresh = family.build(), Refresh()
    for name, module in model.named_modules():
        if name.split(".")[0].endswith("transformer_blocks") and name.endswith(".attn"):
            module.set_processor(family.processor(refresh))
    thresholds = dict(family.thresholds)
    pattern = policy.controller.steps
    run = Authors(
        model, family.enter, refresh, pattern, policy.token.budget, thresholds, policy.block.start_block
    )
    shape = latent[row : row + 1].shape

    def call(step: int, x: Tensor, time: float) -> Tensor:
        return unpatched(run.step(step, x, time, row, BATCH), shape)

    return sampled(len(pattern), latent[row : row + 1], call), run


def unpatched(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Tokens [1, tokens, channels] as a latent; a patch is one value wide."""
    return tokens if len(shape) == 3 else tokens.transpose(1, 2).reshape(shape)


def policies(family: Family) -> dict[str, Policy]:
    slow, fast = (scaled(family, author_policy(family.published, mode)) for mode in ("slow", "fast"))
    pairs = Policy.parse({**slow.to_data(), "controller": {"kind": "pattern", "steps": EVERY_PAIR}})
    return {"slow": slow, "fast": fast, "every pair": pairs}


def test_the_short_pattern_holds_every_pair_of_actions() -> None:
    assert {a + b for a, b in pairwise(EVERY_PAIR)} == {a + b for a, b in product("FBT.", repeat=2)}


@pytest.mark.parametrize("schedule", ["slow", "fast", "every pair"])
def test_outputs_are_the_authors_at_every_step(family: Family, schedule: str) -> None:
    policy = policies(family)[schedule]
    latent = noise(family.tiny, BATCH, dtype=torch.float64)
    ours = run_ours(family, family.build(), policy, latent)
    assert ours.actions == (policy.controller.steps,) * BATCH  # nothing fell back to full
    for row in range(BATCH):  # the authors' code takes one sample: rows do not depend on each other
        expected, authors = run_authors(family, policy, latent, row)
        for found, wanted in zip(ours.outputs, expected, strict=True):
            torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-8, atol=1e-9)
        for found, wanted in zip(ours.stack, authors.outputs, strict=True):
            torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-8, atol=1e-9)
        if "B" in policy.controller.steps:
            beyond = 2 * (7 - 1 - policy.block.start_block)
            assert all(0 < len(skipped) < beyond for skipped in authors.skipped)
        for step, used in authors.metrics.items():
            assert tuple(ours.known[step][row][:2]) == used


def test_the_published_schedule_chooses_tokens_by_the_last_two_computed_steps(family: Family) -> None:
    """P4: skips leave no residual behind."""
    policy = policies(family)["slow"]
    latent = noise(family.tiny, BATCH, dtype=torch.float64)
    known = run_ours(family, family.build(), policy, latent).known
    if family.published == "flux.1-dev":
        assert [known[step][0][:2] for step in (13, 41)] == [[9, 6], [36, 30]]
    computed = [i for i, letter in enumerate(policy.controller.steps) if letter != "."]
    for step in (i for i, letter in enumerate(policy.controller.steps) if letter == "T"):
        assert known[step][0][:2] == [i for i in reversed(computed) if i < step][:2]


def test_tokens_left_out_keep_the_previous_output(family: Family) -> None:
    """P12, after a skip and after a computed step; without parity they follow the prediction instead."""
    policy = policies(family)["every pair"]
    latent = noise(family.tiny, BATCH, dtype=torch.float64)
    cached = int((1 - policy.token.budget) * family.tiny.tokens)
    for parity, wanted in (("authors", cached), (None, 0)):
        stack = run_ours(
            family, family.build(), Policy.parse({**policy.to_data(), "parity": parity}), latent
        ).stack
        for step, letter in enumerate(policy.controller.steps):
            if letter == "T":
                same = (stack[step] == stack[step - 1]).all(-1).sum(1)
                assert same.tolist() == [wanted] * BATCH


def test_a_sample_runs_as_it_would_alone(family: Family) -> None:
    """P10: chosen tokens do not depend on the batch."""
    policy = policies(family)["every pair"]
    latent = noise(family.tiny, BATCH, dtype=torch.float64)
    together = run_ours(family, family.build(), policy, latent)
    alone = run_ours(family, family.build(), policy, latent[:1])
    for batched, single in zip(together.stack, alone.stack, strict=True):
        torch.testing.assert_close(batched[:1], single, rtol=1e-8, atol=1e-9)


def test_what_is_held_follows_the_schedule() -> None:
    """Block residuals and the output are held only while a refresh that reads them may come."""
    family = FAMILIES["flux"]
    policy = policies(family)["slow"]
    model, pattern = family.build(), policy.controller.steps
    held: list[tuple[bool, bool]] = []
    with xslim.attach(model, policy, num_steps=len(pattern)) as session, torch.no_grad():

        def call(step: int, x: Tensor, time: float) -> Tensor:
            if step:
                (branch,) = session._request.branches.values()
                held.append((bool(branch.residuals.tensors()), branch.last_output is not None))
            return family.tiny.call(model, x, time)

        sampled(len(pattern), noise(family.tiny, 1, dtype=torch.float64), call)
    for step, (residuals, output) in enumerate(held):
        ahead = pattern[step + 1 :].split("F")[0]
        assert output == ("T" in ahead)
        if pattern[step] == "F" and "B" not in ahead:
            assert not residuals


@pytest.mark.parametrize("steps", ["FF.B", "FFTF.T.", "FFB"])
def test_parity_needs_a_full_step_after_a_refresh(steps: str) -> None:
    data = Policy.from_pattern(steps).to_data()
    with pytest.raises(ConfigError, match="no full step follows") as caught:
        Policy.parse({**data, "parity": "authors"})
    assert caught.value.key == "controller.steps"
    assert "\n" not in str(caught.value)
