"""Attaching and detaching: what is refused, and what is left behind."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTPipeline, FirstBlockCacheConfig
from diffusers.hooks import apply_first_block_cache

import xslim
from tests.conformance.test_adapters import snapshot
from tests.pipelines import draw, flux_pipeline
from tests.tiny import TINY, dit, dit_pipeline, generate, noise, sample
from tests.tiny.flux import flux
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


def test_another_cache_is_not_stacked_upon() -> None:
    """Enabled as diffusers does, applied by its functions, or left by cache-dit: refused, nothing changed."""
    enabled = flux()
    enabled.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    applied = flux()
    apply_first_block_cache(applied, FirstBlockCacheConfig(threshold=0.1))
    marked = dit()
    marked._is_cached = True
    for model, said in ((enabled, "disable_cache"), (applied, "remove_hook"), (marked, "cache-dit")):
        before = snapshot(model)
        with pytest.raises(AttachError, match=said):
            xslim.attach(model, SKIPPING, num_steps=8)
        assert snapshot(model) == before


def test_another_cache_enabled_after_attaching_wins() -> None:
    """Ours steps aside for the request, and says so; afterwards it works again."""
    pipe = flux_pipeline()
    config = FirstBlockCacheConfig(threshold=0.5)
    alone = flux_pipeline()
    alone.transformer.enable_cache(config)
    with xslim.attach(pipe, SKIPPING, num_steps=8) as session:
        cached = draw(pipe)
        pipe.transformer.enable_cache(config)
        assert torch.equal(draw(pipe), draw(alone))
        pipe.transformer.disable_cache()
        assert torch.equal(draw(pipe), cached)
    assert ["another cache" in str(r.mismatch) for r in session.requests] == [False, True, False]


def test_training_with_gradients_is_refused_at_the_call() -> None:
    tiny = TINY["FluxTransformer2DModel"]
    model, start = tiny.build(), noise(TINY["FluxTransformer2DModel"], 1)
    with xslim.attach(model, SKIPPING, num_steps=8) as session:
        model.train()
        with pytest.raises(AttachError, match=r"model\.eval\(\).*torch\.no_grad\(\)"):
            tiny.call(model, start, 1.0)
        assert session.held_bytes == 0
        sample(tiny, model, 8, start)  # without gradients
        model.eval()
        sample(tiny, model, 8, start)
    assert [r.actions for r in session.requests] == ["F..F..F."] * 2


TOKENS = {
    "pattern": (Policy.from_pattern("FFT."), "write B or F"),
    "dual-threshold": (Policy(controller={"kind": "dual-threshold", "critical": 1.0}), "controller.polish"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_token_refreshes_need_a_model_that_can(name: str) -> None:
    policy, remedy = TOKENS[name]
    model = TINY["HunyuanVideoTransformer3DModel"].build()
    xslim.attach(model, policy, num_steps=4).detach()
    model.register_to_config(image_condition_type="token_replace")
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=remedy) as caught:
        xslim.attach(model, policy, num_steps=4)
    assert "modulated by position" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(model) == before
    xslim.attach(model, Policy.from_pattern("FFB."), num_steps=4).detach()
