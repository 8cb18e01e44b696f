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


def test_one_of_two_detached_and_a_third_untouched() -> None:
    first, second, third = (dit_pipeline(seed) for seed in range(3))
    plain = [generate(pipe, 8) for pipe in (first, second, third)]
    one = xslim.attach(first, SKIPPING, num_steps=8)
    two = xslim.attach(second, SKIPPING, num_steps=8)
    cached = generate(second, 8)
    assert not torch.equal(cached, plain[1])
    assert torch.equal(generate(third, 8), plain[2])
    one.detach()
    assert torch.equal(generate(first, 8), plain[0])
    assert torch.equal(generate(second, 8), cached)
    assert torch.equal(generate(third, 8), plain[2])
    two.detach()
    assert torch.equal(generate(second, 8), plain[1])


def test_attaching_twice_raises_and_leaves_the_first(pipe: DiTPipeline) -> None:
    with xslim.attach(pipe, SKIPPING, num_steps=8):
        cached = generate(pipe, 8)
        with pytest.raises(AttachError, match="detach it first"):
            xslim.attach(pipe.transformer, SKIPPING, num_steps=8)
        assert torch.equal(generate(pipe, 8), cached)
    with xslim.attach(pipe, SKIPPING, num_steps=8):  # after a detach it may be attached again
        assert torch.equal(generate(pipe, 8), cached)


def test_a_failure_half_way_leaves_both_models_as_they_were() -> None:
    """The second model shares its fifth block with an attached one, so four blocks are hooked by then."""
    attached, other = dit(0), dit(1)
    other.transformer_blocks[4] = attached.transformer_blocks[4]
    session = xslim.attach(attached, SKIPPING, num_steps=8)
    before = snapshot(attached), snapshot(other)
    with pytest.raises(AttachError, match="shares its blocks"):
        xslim.attach(other, SKIPPING, num_steps=8)
    assert (snapshot(attached), snapshot(other)) == before
    session.detach()
    xslim.attach(other, SKIPPING, num_steps=8).detach()


@pytest.mark.parametrize("target", [torch.nn.Linear(2, 2), object(), None, "model", dit_pipeline().vae])
def test_unsupported_targets_raise(target: object) -> None:
    with pytest.raises(UnsupportedModelError):
        xslim.attach(target, SKIPPING, num_steps=8)


def test_a_subclass_is_not_taken_for_its_parent() -> None:
    class DiTTransformer2DModelTuned(type(dit())):  # type: ignore[misc]
        """Its blocks may be called in another way."""

    model = dit()
    model.__class__ = DiTTransformer2DModelTuned
    with pytest.raises(UnsupportedModelError, match="did you mean 'DiTTransformer2DModel'"):
        xslim.attach(model, SKIPPING, num_steps=8)


def test_a_model_without_blocks_raises() -> None:
    with pytest.raises(UnsupportedModelError, match="no blocks"):
        xslim.attach(dit(num_layers=0), SKIPPING, num_steps=8)


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


def test_a_bare_policy_is_remapped_to_the_requests_steps(pipe: DiTPipeline) -> None:
    with xslim.attach(pipe, Policy.from_pattern("F..F..F..F"), num_steps=10) as session:
        for steps in (10, 33, 20, 4, 1):
            generate(pipe, steps)
            actions = session.trace.actions
            assert len(actions) == steps
            assert actions[0] == actions[-1] == "F"
            assert "..." not in actions
            assert session.held_bytes == 0
    assert session.requests[0].actions == "F..F..F..F"
    assert [r.mismatch for r in session.requests] == [None] * 5
    assert [r.num_steps for r in session.requests] == [10, 33, 20, 4, 1]


def test_train_mode_and_lora_free_attributes_survive(pipe: DiTPipeline) -> None:
    with xslim.attach(pipe, SKIPPING, num_steps=8) as session:
        expected = generate(pipe, 8)
        pipe.transformer.train()
        pipe.transformer.eval()
        assert torch.equal(generate(pipe, 8), expected)
    assert session.requests[0].actions == session.requests[1].actions == "F..F..F."


def test_lora_layers_added_after_attaching_are_used() -> None:
    from peft import LoraConfig

    pipe = dit_pipeline()
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    with xslim.attach(pipe, Policy.from_pattern("F" * 4), num_steps=4):
        plain = generate(pipe, 4)
        torch.manual_seed(0)
        try:
            pipe.transformer.add_adapter(config)
        except AttributeError:
            from peft import inject_adapter_in_model

            inject_adapter_in_model(config, pipe.transformer)
        tuned = generate(pipe, 4)
    assert not torch.equal(plain, tuned)
    assert torch.equal(generate(pipe, 4), tuned)
