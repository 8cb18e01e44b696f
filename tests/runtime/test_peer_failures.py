"""What breaks in other caching runtimes, one test a failure; the docstring says what must hold instead.

Number 11, graphs of compiled blocks, is in test_companions.py.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FirstBlockCacheConfig,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
)
from torch import Tensor, nn

import xslim
from tests.conformance.test_adapters import snapshot
from tests.conftest import GOLDEN
from tests.pipelines import draw, flux_pipeline, negative, picture
from tests.policy.test_documents import HOSTILE
from tests.runtime.failures import RequestFailureError, fail_between_steps, fail_in_block
from tests.tiny import TINY, dit, dit_pipeline, generate, noise, sample
from xslim import Policy
from xslim.errors import AttachError, ConfigError, UnsupportedModelError, XSlimError

SKIPPING = Policy.from_pattern("F..F..F.")
MIXED = Policy.from_pattern(
    "FFB.FT.F", start_block=0, block_threshold=1.0, predictor={"kind": "newton", "order": 1}
)
PIPELINES: dict[str, tuple[Callable[[int], Any], Callable[..., Tensor]]] = {
    "dit": (dit_pipeline, generate),
    "flux": (lambda seed: flux_pipeline(seed=seed), draw),
}
FAMILIES = pytest.mark.parametrize("family", PIPELINES)


@FAMILIES
def test_01_two_pipelines_and_an_untouched_third(family: str) -> None:
    """One of two attached pipelines is detached; the other, and a third one, keep working, bit-exact."""
    build, run = PIPELINES[family]
    first, second, third = (build(seed) for seed in range(3))
    plain = [run(pipe, 8) for pipe in (first, second, third)]
    one = xslim.attach(first, SKIPPING, num_steps=8)
    two = xslim.attach(second, SKIPPING, num_steps=8)
    cached = run(second, 8)
    assert not torch.equal(cached, plain[1])
    assert torch.equal(run(third, 8), plain[2])
    one.detach()
    assert torch.equal(run(first, 8), plain[0])
    assert torch.equal(run(second, 8), cached)
    assert torch.equal(run(third, 8), plain[2])
    two.detach()
    assert torch.equal(run(second, 8), plain[1])


def test_02_detach_restores_the_model_and_another_cache_can_follow() -> None:
    """Detaching leaves forward, modules and state dict as they were, and other caches still work."""
    pipe = flux_pipeline()
    plain = draw(pipe)
    before = snapshot(pipe.transformer)
    with xslim.attach(pipe, MIXED, num_steps=8):
        draw(pipe)
    assert snapshot(pipe.transformer) == before
    config = FirstBlockCacheConfig(threshold=0.5)
    pipe.transformer.enable_cache(config)
    after = draw(pipe)
    untouched = flux_pipeline()
    untouched.transformer.enable_cache(config)
    assert torch.equal(after, draw(untouched))
    assert not torch.equal(after, plain)
    pipe.transformer.disable_cache()
    with xslim.attach(pipe, Policy.from_pattern("F" * 8), num_steps=8):
        assert torch.equal(draw(pipe), plain)


@cache
def fresh(family: str, steps: int, batch: int, dtype: torch.dtype, side: int) -> Tensor:
    """What the first request of a new pipeline and session gives."""
    build, run = PIPELINES[family]
    pipe = build(0)
    pipe.transformer.to(dtype)
    with xslim.attach(pipe, MIXED, num_steps=8):
        return run(pipe, steps, batch=batch, **({"height": side, "width": side} if family == "flux" else {}))


NEXT = [(8, 2, torch.float32, 8), (8, 3, torch.float32, 8), (5, 2, torch.float32, 8)]
NEXT_FLUX = [*NEXT, (13, 2, torch.float32, 12), (8, 2, torch.float32, 12), (8, 2, torch.bfloat16, 8)]
NEXT_EACH = [*(("dit", then) for then in NEXT), *(("flux", then) for then in NEXT_FLUX)]


@pytest.mark.parametrize(
    ("family", "then", "at"),
    [
        # at every place for the same request again; for other ones the further places are slow
        pytest.param(family, then, at, marks=() if then == NEXT[0] or at == 4 else pytest.mark.slow)
        for at in (0, 4, 7)
        for family, then in NEXT_EACH
    ],
)
@pytest.mark.parametrize("fail", [fail_in_block, fail_between_steps])
def test_03_an_aborted_request_leaves_nothing(family: str, fail: Any, at: int, then: tuple[Any, ...]) -> None:
    """After an exception at any step the next request equals a fresh one, whatever its size and dtype."""
    steps, batch, dtype, side = then
    at = min(at, 4) if fail is fail_in_block else at  # of the steps that run every block: 0, 1, (B), 4, 5
    build, run = PIPELINES[family]
    pipe = build(0)
    with xslim.attach(pipe, MIXED, num_steps=8) as session:
        restore = fail(pipe, at)
        with pytest.raises(RequestFailureError):
            run(pipe, 8, batch=2, seed=100)
        restore()
        if fail is fail_in_block:
            assert session.held_bytes == 0
        pipe.transformer.to(dtype)
        extra = {"height": side, "width": side} if family == "flux" else {}
        after = run(pipe, steps, batch=batch, **extra)
    assert torch.equal(after, fresh(family, *then))
    first, second = session.requests
    assert first.aborted is not (fail is fail_between_steps and at == 7)  # the model had seen all steps
    assert not second.aborted
    assert second.steps == second.num_steps == steps


@FAMILIES
def test_04_another_number_of_steps_is_remapped(family: str) -> None:
    """A policy for 20 steps on 33, or fewer: never a tail of skips beyond its end."""
    build, run = PIPELINES[family]
    pipe = build(0)
    with xslim.attach(pipe, Policy.from_pattern("F..F..F..F" * 2), num_steps=20) as session:
        for steps in (20, 33, 10, 4, 1):
            run(pipe, steps)
            actions = session.trace.actions
            assert len(actions) == steps
            assert actions[0] == actions[-1] == "F"
            assert "..." not in actions
            assert session.held_bytes == 0
    assert session.requests[0].actions == "F..F..F..F" * 2
    assert [r.mismatch for r in session.requests] == [None] * 5
    assert [r.num_steps for r in session.requests] == [20, 33, 10, 4, 1]


@pytest.mark.parametrize("kind", [FluxPipeline, FluxImg2ImgPipeline])
def test_05_guidance_in_two_calls(kind: type[DiffusionPipeline]) -> None:
    """Each branch has a state and a name of its own, whether a `cache_context` names it or not.

    One of the pipelines opens one for each branch, the other none. More in test_branches.py.
    """
    given: dict[str, Any] = {} if kind is FluxPipeline else {"image": picture(), "strength": 1.0}
    given |= negative()
    pipe = flux_pipeline(kind)
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 1.5, "warmup": 2, "polish": ["block"]},
        indicator={"signals": {"latent_velocity": 1.0}},
    )
    with xslim.attach(pipe, policy, num_steps=8) as session:
        draw(pipe, **given)
        trace = session.trace
    assert trace.branches == (("cond", "uncond") if kind is FluxPipeline else ("default", "branch-2"))
    assert len(session.requests) == 1
    assert all(len(actions) == 8 for actions in trace.all_actions)
    always = Policy.from_pattern("F" * 8)
    plain = draw(pipe, **given)
    with xslim.attach(pipe, always, num_steps=8):
        assert torch.equal(draw(pipe, **given), plain)


def test_05_guidance_in_one_call() -> None:
    """Both halves in one batch: one branch, twice the samples."""
    pipe = dit_pipeline()
    with xslim.attach(pipe, MIXED, num_steps=8) as session:
        generate(pipe, 8, batch=2, guidance=4.0)
    assert session.trace.branches == ("default",)
    assert [len(r.decisions) for r in session.trace.records] == [4] * 8
    assert len(session.requests) == 1
    assert session.held_bytes == 0
    with xslim.attach(pipe, Policy.from_pattern("F" * 8), num_steps=8):
        full = generate(pipe, 8, batch=2, guidance=4.0)
    assert torch.equal(full, generate(pipe, 8, batch=2, guidance=4.0))


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "DiTTransformer2DModel"])
def test_06_a_sample_does_not_depend_on_its_mates(name: str) -> None:
    """Its decisions and its output are the same alone and in any batch."""
    tiny = TINY[name]
    model, start = tiny.build(), noise(tiny, 3)
    start[1], start[2] = start[1] * 4, start[2] * 0.2
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 0.9, "warmup": 2},
        indicator={"signals": {"latent_velocity": 1.0}},
        block={"budget": 0.5, "start_block": 0},
    )

    def run(rows: int) -> tuple[Tensor, tuple[str, ...]]:
        with xslim.attach(model, policy, num_steps=12) as session:
            return sample(tiny, model, 12, start[:rows]), session.trace.all_actions

    together, actions = run(3)
    assert len(set(actions)) > 1
    assert "." in actions[0]
    for rows in (1, 2):
        alone, alone_actions = run(rows)
        assert alone_actions == actions[:rows]
        torch.testing.assert_close(alone, together[:rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("quality:", "qualty:"),
        ("  adapters:", "  adaptors:"),
        ("    max_consecutive_skips:", "    max_consecutive_skip:"),
        ("    age_weight:", "    age_wieght:"),
        ("    order:", "    ordr:"),
    ],
)
def test_07_a_misspelt_key_is_an_error(tmp_path: Path, right: str, wrong: str) -> None:
    """It names the file, the key and the key that was meant; nothing is ignored."""
    text = (GOLDEN / "preset_v1.yaml").read_text(encoding="utf-8")
    path = tmp_path / "preset.yaml"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        xslim.load_preset(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert wrong.strip(" :") in line
    assert f"'{right.strip(' :')}'" in line


@FAMILIES
def test_08_the_second_image_is_cached_as_the_first(family: str, adaptive: Policy) -> None:
    """Same input, same actions, same picture; no counter runs on."""
    build, run = PIPELINES[family]
    pipe = build(0)
    with xslim.attach(pipe, adaptive, num_steps=12) as session:
        first = run(pipe, 12, batch=2)
        trace = session.trace
        second = run(pipe, 12, batch=2)
    assert torch.equal(first, second)
    assert session.trace.all_actions == trace.all_actions
    assert set(trace.actions) > {"F", "."}
    assert [r.actions for r in session.requests] == [trace.actions] * 2
    assert [r.aborted for r in session.requests] == [False, False]


def test_09_nothing_to_cache_is_an_error_or_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """No known class, no blocks: an error. A policy that never skips: said in the summary and in the log."""

    class DiTTransformer2DModelTuned(type(dit())):  # type: ignore[misc]
        """Its blocks may be called in another way."""

    model = dit()
    model.__class__ = DiTTransformer2DModelTuned
    with pytest.raises(UnsupportedModelError, match="did you mean 'DiTTransformer2DModel'"):
        xslim.attach(model, SKIPPING, num_steps=8)
    with pytest.raises(UnsupportedModelError, match="no blocks"):
        xslim.attach(dit(num_layers=0), SKIPPING, num_steps=8)
    strict = Policy(controller={"kind": "dual-threshold", "critical": 1e-6})
    pipe = dit_pipeline()
    with caplog.at_level(logging.INFO, "xslim"), xslim.attach(pipe, strict, num_steps=8) as session:
        generate(pipe, 8)
    summary = session.summary()
    assert summary["totals"]["note"] == summary["requests"][0]["note"] == "never skipped"
    assert "never skipped" in caplog.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "DiTTransformer2DModel"])
def test_10_nonfinite_signals_force_full_steps_and_are_counted(name: str, bad: float) -> None:
    """NaN is neither similar nor a miss in silence."""
    tiny = TINY[name]
    model, start = tiny.build(), noise(tiny, 2)
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 100.0, "warmup": 1, "cooldown": 0, "polish": []},
        indicator={"signals": {"modulated_input": 1.0, "latent_velocity": 1.0}},
    )

    def spoil(step: int, x: Tensor) -> Tensor:
        if step == 3:
            x = x.clone()
            x[1].view(-1)[5] = bad
        return x if step != 4 else start

    with xslim.attach(model, policy, num_steps=8) as session:
        out = sample(tiny, model, 8, start, before=spoil)
    sound, spoilt = session.trace.all_actions
    assert torch.isfinite(out).all()
    assert spoilt[3] == "F"
    assert sound[3] == "."
    record = session.trace.records[3].decisions[1]
    assert record.nonfinite
    assert record.reason == "nonfinite"
    assert session.requests[0].nonfinite == session.summary()["totals"]["nonfinite"] >= 1


def frozen(block: nn.Module) -> None:
    """Make a block refuse a new forward."""

    def refuse(self: nn.Module, name: str, value: object) -> None:
        if name == "forward":
            raise RequestFailureError("this block is frozen")
        nn.Module.__setattr__(self, name, value)

    block.__class__ = type("Frozen", (type(block),), {"__setattr__": refuse})


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "DiTTransformer2DModel"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_12_a_failure_half_way_leaves_the_model_as_it_was(name: str, at: int) -> None:
    """Blocks before the one that fails are restored, and the model runs as before."""
    tiny = TINY[name]
    model, start = tiny.build(), noise(tiny, 1)
    plain = sample(tiny, model, 3, start)
    frozen(model.transformer_blocks[at])
    before = snapshot(model)
    with pytest.raises(RequestFailureError):
        xslim.attach(model, SKIPPING, num_steps=8)
    assert snapshot(model) == before
    assert torch.equal(sample(tiny, model, 3, start), plain)


def test_12_a_shared_block_leaves_both_models_as_they_were() -> None:
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


def in_place(block: nn.Module) -> None:
    """Make a block leave its result in its input, past the version counter as a foreign kernel would."""
    plain = type(block).forward

    @functools.wraps(plain)
    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = plain(self, hidden_states, *args, **kwargs)
        hidden_states.data.copy_(out[1] if isinstance(out, tuple) else out)
        return (out[0], hidden_states) if isinstance(out, tuple) else hidden_states

    block.__class__ = type("InPlace", (type(block),), {"forward": forward})


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "DiTTransformer2DModel"])
@pytest.mark.parametrize("inference", [False, True])
def test_13_blocks_that_overwrite_their_input_are_found(
    name: str, inference: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A saved input that changes later would make every residual wrong; nothing is reused, and it is said."""
    tiny = TINY[name]
    model, start = tiny.build(), noise(tiny, 1)
    plain = sample(tiny, model, 8, start)
    in_place(model.transformer_blocks[0])
    with torch.inference_mode(inference), xslim.attach(model, SKIPPING, num_steps=8) as session:
        for _ in range(2):
            assert torch.equal(sample(tiny, model, 8, start), plain)
            assert session.held_bytes == 0
    assert all("block 0 writes into its own input" in str(r.mismatch) for r in session.requests)
    assert len([r for r in caplog.records if r.name.startswith("xslim")]) == 1


OTHERS = {
    "img2img": (FluxImg2ImgPipeline, {"image": picture(), "strength": 0.6}),
    "inpaint": (
        FluxInpaintPipeline,
        {"image": picture(), "mask_image": torch.ones(1, 1, 8, 8), "strength": 0.6},
    ),
    "kontext": (FluxKontextPipeline, {"image": picture(), "max_area": 64, "_auto_resize": False}),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("guided", [False, True])
def test_14_pipelines_that_open_no_context(name: str, guided: bool) -> None:
    """Image to image, inpainting and editing: cached as any other, also from the middle of the schedule."""
    kind, given = OTHERS[name]
    given = {**given, **(negative() if guided else {})}
    pipe = flux_pipeline(kind)
    plain = draw(pipe, 8, **given)
    with xslim.attach(pipe, Policy.from_pattern("F.F.F.F."), num_steps=8) as session:
        first = draw(pipe, 8, **given)
        assert session.held_bytes == 0
        assert torch.equal(draw(pipe, 8, **given), first)
    with xslim.attach(pipe, Policy.from_pattern("F" * 8), num_steps=8):
        assert torch.equal(draw(pipe, 8, **given), plain)
    assert not torch.equal(first, plain)
    middle = name != "kontext"
    for request in session.requests:
        assert request.first_step == (3 if middle else 0)
        assert request.actions == ("FF.F." if middle else "F.F.F.F.")  # the first has nothing to reuse
        assert request.branches == (("default", "branch-2") if guided else ("default",))
        assert not request.aborted


@FAMILIES
def test_15_training_mode_may_be_toggled(family: str) -> None:
    """train() and eval() between requests, and training mode without gradients, change nothing."""
    build, run = PIPELINES[family]
    pipe = build(0)
    with xslim.attach(pipe, SKIPPING, num_steps=8) as session:
        expected = run(pipe, 8)
        pipe.transformer.train()
        trained = run(pipe, 8)  # pipelines run without gradients
        assert family == "dit" or torch.equal(trained, expected)  # DiT drops labels at random in training
        pipe.transformer.eval()
        assert torch.equal(run(pipe, 8), expected)
    assert [r.actions for r in session.requests] == ["F..F..F."] * 3


@FAMILIES
def test_15_lora_layers_added_after_attaching_are_used(family: str) -> None:
    """Adapters put into an attached model work, and leave the hooks as they are."""
    from peft import LoraConfig, inject_adapter_in_model

    build, run = PIPELINES[family]
    pipe = build(0)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    with xslim.attach(pipe, Policy.from_pattern("FFF."), num_steps=4) as session:
        plain = run(pipe, 4)
        torch.manual_seed(0)
        if hasattr(pipe.transformer, "add_adapter"):
            pipe.transformer.add_adapter(config)
        else:
            inject_adapter_in_model(config, pipe.transformer)
        tuned = run(pipe, 4)
    assert not torch.equal(plain, tuned)
    assert [r.actions for r in session.requests] == ["FFF.", "FFF."]
    with xslim.attach(pipe, Policy.from_pattern("FFF."), num_steps=4):
        assert torch.equal(run(pipe, 4), tuned)


@pytest.mark.parametrize(
    "name", ["object", "new", "module", "recursive", "deep lists", "deep mappings", "huge text", "control"]
)
def test_16_hostile_yaml_is_one_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags, loops, nesting, size and control characters end in one error of ours; no code runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text(HOSTILE[name])
    with pytest.raises(XSlimError) as caught:
        xslim.load_preset(path)
    assert str(caught.value).isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]
