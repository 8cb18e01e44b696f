"""Attaching and detaching: what is refused, and what is left behind."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTPipeline

import xslim
from tests.conformance.test_adapters import snapshot
from tests.tiny import dit, dit_pipeline, generate
from xslim import Policy
from xslim.errors import AttachError, ConfigError, UnsupportedModelError

SKIPPING = Policy.from_pattern("F..F..F.")


def test_attaching_twice_raises_and_leaves_the_first(pipe: DiTPipeline) -> None:
    with xslim.attach(pipe, SKIPPING, num_steps=8):
        cached = generate(pipe, 8)
        with pytest.raises(AttachError, match="detach it first"):
            xslim.attach(pipe.transformer, SKIPPING, num_steps=8)
        assert torch.equal(generate(pipe, 8), cached)
    with xslim.attach(pipe, SKIPPING, num_steps=8):  # after a detach it may be attached again
        assert torch.equal(generate(pipe, 8), cached)


@pytest.mark.parametrize("target", [torch.nn.Linear(2, 2), object(), None, "model", dit_pipeline().vae])
def test_unsupported_targets_raise(target: object) -> None:
    with pytest.raises(UnsupportedModelError):
        xslim.attach(target, SKIPPING, num_steps=8)


@pytest.mark.parametrize("steps", [None, 0, -1, 2.0, True, "8"])
def test_num_steps_of_a_bare_policy_must_be_given(steps: object) -> None:
    model = dit()
    before = snapshot(model)
    with pytest.raises(ConfigError, match="num_steps"):
        xslim.attach(model, SKIPPING, num_steps=steps)
    assert snapshot(model) == before


def test_a_policy_must_be_one() -> None:
    with pytest.raises(ConfigError, match="Policy or a Preset"):
        xslim.attach(dit(), "F..F", num_steps=4)


def test_a_table_must_have_the_models_width() -> None:
    table = Policy(controller={"kind": "table", "blocks": [[1, 0, 1]]})
    with pytest.raises(ConfigError, match=r"controller\.blocks: rows of 3 entries; the model has 6 blocks"):
        xslim.attach(dit(), table, num_steps=1)
