"""Presets on requests that they were not made for: computed in full and said once, or refused."""

from __future__ import annotations

import logging

import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, FluxImg2ImgPipeline, PNDMScheduler

import xslim
from tests.pipelines import draw, flux_pipeline, picture
from tests.tiny import TINY, dit, dit_pipeline, generate, noise, sample
from xslim import Policy, Preset
from xslim.errors import ConfigError, RequestMismatchError
from xslim.runtime.signature import describe_model

STEPS = 8


def preset_for(pipe: DiTPipeline, **changes: object) -> Preset:
    pipe.scheduler.set_timesteps(STEPS)
    signature = describe_model("dit", pipe.transformer, pipe.scheduler, STEPS, (1, 1, 8, 8))
    return Preset(
        name="test", model=signature.model_copy(update=changes), policy=Policy.from_pattern("F..F..F.")
    )


def test_a_fitting_preset_is_applied(pipe: DiTPipeline) -> None:
    preset = preset_for(pipe)
    for batch, guidance in ((1, 1.0), (3, 1.0), (2, 4.0)):
        with xslim.attach(pipe, preset, strict=True) as session:
            generate(pipe, STEPS, batch, guidance=guidance)
        assert session.trace.actions == "F..F..F."
        assert session.requests[0].mismatch is None


def another_config(pipe: DiTPipeline) -> DiTPipeline:
    return dit_pipeline(num_attention_heads=4, attention_head_dim=8)


def another_scheduler(pipe: DiTPipeline) -> DiTPipeline:
    pipe.scheduler = PNDMScheduler(skip_prk_steps=True)
    return pipe


def another_scheduler_config(pipe: DiTPipeline) -> DiTPipeline:
    pipe.scheduler = DDIMScheduler(clip_sample=False, beta_end=0.03)
    return pipe


def another_dtype(pipe: DiTPipeline) -> DiTPipeline:
    pipe.transformer.to(torch.bfloat16)
    pipe.vae.to(torch.bfloat16)
    return pipe


CHANGED = {
    "config_sha256": another_config,
    "scheduler is": another_scheduler,
    "scheduler_sha256": another_scheduler_config,
    "dtype": another_dtype,
}


@pytest.mark.parametrize("said", CHANGED)
def test_another_pipeline_computes_in_full(said: str, caplog: pytest.LogCaptureFixture) -> None:
    preset = preset_for(dit_pipeline())
    pipe = CHANGED[said](dit_pipeline())
    plain = generate(pipe, STEPS)
    caplog.clear()
    with xslim.attach(pipe, preset) as session:
        for _ in range(2):
            assert torch.equal(generate(pipe, STEPS), plain)
            assert session.trace.compute_fraction == 1.0
            assert set(session.trace.actions) == {"F"}
            assert session.held_bytes == 0
    assert all(said in r.mismatch for r in session.requests)
    warnings = [r for r in caplog.records if r.name.startswith("xslim") and r.levelno == logging.WARNING]
    assert len(warnings) == 1  # once, not at every image
    assert said in warnings[0].getMessage()


@pytest.mark.parametrize("said", CHANGED)
def test_another_pipeline_raises_when_strict(said: str) -> None:
    preset = preset_for(dit_pipeline())
    pipe = CHANGED[said](dit_pipeline())
    plain = generate(pipe, STEPS)
    with xslim.attach(pipe, preset, strict=True) as session:
        with pytest.raises(RequestMismatchError, match=said):
            generate(pipe, STEPS)
        assert session.held_bytes == 0
    assert torch.equal(generate(pipe, STEPS), plain)


@pytest.mark.parametrize("steps", [5, 13])
def test_another_number_of_steps_computes_in_full(pipe: DiTPipeline, steps: int) -> None:
    plain = generate(pipe, steps)
    with xslim.attach(pipe, preset_for(pipe)) as session:
        assert torch.equal(generate(pipe, steps), plain)
        assert "num_steps" in session.requests[0].mismatch
        generate(pipe, STEPS)  # and the next fitting request is cached again
        assert session.requests[1].actions == "F..F..F."


def test_another_model_class_and_resolution_and_sigmas() -> None:
    pipe = dit_pipeline()
    right = preset_for(pipe).model
    wrong = {
        "transformer": "FluxTransformer2DModel",
        "height": 16,
        "width": 16,
        "adapters": ("style",),
        "sigmas": (1.0, *(right.sigmas or ())[1:]),
    }
    for key, value in wrong.items():
        with xslim.attach(pipe, preset_for(pipe, **{key: value})) as session:
            generate(pipe, STEPS)
        assert session.requests[0].mismatch, key
        assert session.trace.compute_fraction == 1.0


def test_a_config_hash_survives_saving_and_loading(tmp_path) -> None:
    pipe = dit_pipeline()
    preset = preset_for(pipe)
    pipe.transformer.save_pretrained(tmp_path / "clone")
    clone = type(pipe.transformer).from_pretrained(tmp_path / "clone").eval()
    assert clone.config["_name_or_path"]
    with xslim.attach(DiTPipeline(clone, pipe.vae, pipe.scheduler), preset, strict=True) as session:
        generate(pipe, 1)  # the old transformer: not attached
        assert not session.requests
        tiny = TINY["DiTTransformer2DModel"]
        pipe.scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps:
                clone(noise(tiny, 1), timestep=t[None], class_labels=torch.tensor([1]))
    assert session.trace.actions == "F..F..F."


def test_on_a_bare_transformer_what_can_be_seen_is_checked() -> None:
    tiny, preset = TINY["DiTTransformer2DModel"], preset_for(dit_pipeline())
    preset = preset.model_copy(update={"model": preset.model.model_copy(update={"timesteps": None})})
    with xslim.attach(dit(), preset) as session:
        sample(tiny, session._model.transformer, STEPS, noise(tiny, 1))
        assert session.requests[0].actions == "F..F..F."
    half = dit().to(torch.bfloat16)
    with xslim.attach(half, preset) as session:
        sample(tiny, half, STEPS, noise(tiny, 1, dtype=torch.bfloat16))
    assert "dtype" in session.requests[0].mismatch


def test_other_timesteps_than_the_presets_compute_the_rest_in_full() -> None:
    tiny, preset = TINY["DiTTransformer2DModel"], preset_for(dit_pipeline())
    model = dit()
    with xslim.attach(model, preset) as session:
        sample(tiny, model, STEPS, noise(tiny, 1))  # this loop has timesteps of its own
    assert set(session.trace.actions) == {"F"}
    assert "timestep" in session.requests[0].mismatch


def test_num_steps_must_agree_with_the_preset(pipe: DiTPipeline) -> None:
    preset = preset_for(pipe)
    with pytest.raises(ConfigError, match="made for 8 steps"):
        xslim.attach(pipe, preset, num_steps=20)
    xslim.attach(pipe, preset, num_steps=8).detach()


def lora() -> object:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)


def test_adapters_loaded_and_unloaded_between_requests() -> None:
    """Checked anew at every request: with the adapters it was made for the preset is applied, else not."""
    pipe = flux_pipeline()
    draw(pipe, STEPS)  # sets the timesteps
    latent = (1, 16, 4)
    bare = describe_model("flux", pipe.transformer, pipe.scheduler, STEPS, latent)
    preset = Preset(name="test", model=bare, policy=Policy.from_pattern("F..F..F."))
    styled = preset.model_copy(update={"model": bare.model_copy(update={"adapters": ("style",)})})
    for made, fits in ((preset, (True, False, True, True)), (styled, (False, True, False, False))):
        pipe = flux_pipeline()
        with xslim.attach(pipe, made) as session:
            draw(pipe, STEPS)
            pipe.transformer.add_adapter(lora(), "style")
            draw(pipe, STEPS)
            pipe.transformer.disable_adapters()
            draw(pipe, STEPS)
            pipe.transformer.delete_adapters("style")
            draw(pipe, STEPS)
        assert tuple(r.mismatch is None for r in session.requests) == fits
        assert all("adapters" in r.mismatch for r in session.requests if r.mismatch)
        assert session.summary()["totals"]["mismatched"] == fits.count(False)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("HunyuanVideoTransformer3DModel", (1, 4, 3, 4, 4)),  # frames
        ("HunyuanVideoTransformer3DModel", (1, 4, 2, 4, 8)),
        ("FluxTransformer2DModel", (1, 36, 4)),  # tokens of a sequence
    ],
)
def test_frames_and_tokens_are_part_of_the_size(name: str, size: tuple[int, ...]) -> None:
    tiny = TINY[name]
    model = tiny.build()
    signature = describe_model("any", model, None, STEPS, noise(tiny, 1).shape)
    preset = Preset(name="test", model=signature, policy=Policy.from_pattern("F..F..F."))
    with xslim.attach(model, preset) as session:
        sample(tiny, model, STEPS, noise(tiny, 2))
        sample(tiny, model, STEPS, torch.randn(size))
    assert session.requests[0].mismatch is None
    assert session.requests[1].mismatch is not None
    assert any(word in session.requests[1].mismatch for word in ("width", "latent_shape"))
    assert set(session.trace.actions) == {"F"}


def test_a_preset_in_the_middle_of_its_schedule() -> None:
    """Image to image: the timesteps are the preset's, from some step on."""
    text = flux_pipeline()
    draw(text, STEPS)
    signature = describe_model("flux", text.transformer, text.scheduler, STEPS, (1, 16, 4))
    preset = Preset(name="test", model=signature, policy=Policy.from_pattern("F..F..F."))
    pipe = flux_pipeline(FluxImg2ImgPipeline, scheduler=text.scheduler)
    with xslim.attach(pipe, preset, strict=True) as session:
        draw(pipe, STEPS, image=picture(), strength=0.6)
    assert session.trace.actions == "F..F."
    assert session.requests[0].first_step == 3
