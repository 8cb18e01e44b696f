"""Settings reach the models; what does not fit a pipeline is one line."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging

from autotune.scoring.case import Case
from autotune.scoring.pipeline import Memory, PipelineRunner
from autotune.scoring.pipeline.loading import place
from autotune.scoring.pipeline.request import SIDE_LATENTS
from tests.scoring.families import CASES, Load, Specs
from xslim.errors import ConfigError


def test_parts_have_the_dtypes_asked_for(specs: Specs) -> None:
    runner = PipelineRunner(replace(specs["wan"], dtype="bfloat16", component_dtypes={"vae": "float32"}))
    assert runner.pipe.transformer.dtype == runner.pipe.text_encoder.dtype == torch.bfloat16
    assert runner.pipe.vae.dtype == torch.float32
    assert runner.draw(CASES).images.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_settings_reach_the_models(specs: Specs) -> None:
    spec = replace(
        specs["hunyuan"], memory=Memory(vae_tiling=True, vae_slicing=True), compile="default",
        attention_backend="native",
    )  # fmt: skip
    pipe = PipelineRunner(spec).pipe
    assert pipe.vae.use_tiling
    assert pipe.vae.use_slicing
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert all(block.attn.processor._attention_backend == "native" for block in blocks)
    plain = PipelineRunner(specs["hunyuan"]).pipe
    assert not plain.vae.use_tiling
    assert not plain.vae.use_slicing
    assert plain.transformer.transformer_blocks[0]._compiled_call_impl is None


@pytest.mark.parametrize(
    ("name", "changes", "key", "part"),
    [
        ("flux", {"arguments": {"max_sequence_len": 8}}, "arguments.max_sequence_len", "'max_sequence_le"),
        ("flux", {"arguments": {"prompt": "one"}}, "arguments.prompt", "takes no such argument"),
        ("flux", {"num_frames": 5}, "num_frames", "FluxPipeline takes no such argument"),
        ("dit", {"height": 8}, "height", "takes no such argument here; allowed: guidance_scale"),
        ("dit", {"arguments": {"seed": 8}}, "arguments.seed", "takes no such argument here; remove it"),
        ("flux", {"arguments": {"tall": 8}}, "arguments.tall",
         "here; allowed: joint_attention_kwargs, max_sequence_length, negative_prompt, negative_prompt_2, "
         "prompt_2, sigmas, true_cfg_scale"),
        ("flux", {"arguments": {"height": 8}}, "arguments.height", "takes no such argument here"),
        ("flux", {"arguments": {"prompt_embeds": [1]}}, "arguments.prompt_embeds", "takes no such argument"),
        ("flux", {"height": 11}, "height", "got 11; FluxPipeline draws multiples of 4 pixels, such as 8"),
        ("flux", {"width": 2}, "width", "multiples of 4 pixels, such as 4"),
        ("hunyuan", {"width": 24}, "width", "multiples of 16 pixels, such as 16 or 32"),
        ("flux", {"arguments": {"max_sequence_length": 513}}, "arguments.max_sequence_length",
         "got 513; FluxPipeline takes a whole number from 1 to 512"),
        ("wan", {"arguments": {"max_sequence_length": "8"}}, "arguments.max_sequence_length", "got '8'; Wan"),
        ("hunyuan", {"num_frames": 10}, "num_frames", "got 10; HunyuanVideoPipeline draws 4k + 1 frames"),
        ("wan", {"num_frames": 4}, "num_frames", "such as 1 or 5"),
        ("flux", {"offload": "model"}, "offload", "got 'model', but the model runs on the CPU"),
        ("flux", {"attention_backend": "flush"}, "attention_backend", "got 'flush'"),
        ("flux", {"component_dtypes": {"vea": "float32"}}, "component_dtypes.vea", "did you mean 'vae'"),
        ("flux", {"device": "gpu"}, "device", "allowed: auto, cpu, cuda, cuda:N"),
    ],
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_one_line(
    name: str, changes: dict[str, Any], key: str, part: str, specs: Specs
) -> None:
    with pytest.raises(ConfigError) as caught:
        PipelineRunner(replace(specs[name], **changes))
    line = str(caught.value)
    assert line.startswith(f"model.{key}: ")
    assert part in line
    assert "\n" not in line


@pytest.mark.parametrize(("key", "can"), [("vae_tiling", "use_tiling"), ("vae_slicing", "use_slicing")])
def test_a_vae_that_cannot_save_memory_is_refused(
    key: str, can: str, specs: Specs, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = AutoencoderKL.__init__

    def without(self: AutoencoderKL, *args: Any, **kwargs: Any) -> None:
        created(self, *args, **kwargs)
        delattr(self, can)

    monkeypatch.setattr(AutoencoderKL, "__init__", functools.wraps(created)(without))
    with pytest.raises(ConfigError, match=rf"model\.memory\.{key}: AutoencoderKL cannot; set it to false"):
        PipelineRunner(replace(specs["flux"], memory=Memory(**{key: True})))


def test_group_offloading_draws_the_same(specs: Specs, load: Load) -> None:
    """On a CPU, to where the runner does not offload by itself."""
    expected = load("flux").draw(CASES)
    pipe = PipelineRunner(specs["flux"]).pipe
    place(replace(specs["flux"], offload="group"), pipe, torch.device("cpu"))
    runner = PipelineRunner.__new__(PipelineRunner)
    runner.__dict__.update(load("flux").__dict__, pipe=pipe)
    assert torch.equal(runner.draw(CASES).images, expected.images)
    block = pipe.transformer.transformer_blocks[0]
    assert block._diffusers_hook.get_hook("group_offloading") is not None


def test_loading_shows_no_bars_without_a_terminal(specs: Specs, capfd: pytest.CaptureFixture[str]) -> None:
    PipelineRunner(specs["hunyuan"])
    assert "%" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("name", "prompt", "part"),
    [
        ("flux", 3, "got 3; FluxPipeline takes texts, so put it in quotes"),
        ("dit", "three", "got 'three'; this DiTPipeline takes class labels, whole numbers below 1000"),
        ("dit", 1000, "got 1000; this DiTPipeline takes class labels"),
        ("dit", -1, "got -1; this DiTPipeline takes class labels"),
    ],
)
def test_a_prompt_of_the_wrong_kind_is_one_line(name: str, prompt: int | str, part: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=r"^model\.prompts: ") as caught:
        load(name).draw([Case(prompt, 1)])
    assert part in str(caught.value)


@pytest.mark.parametrize(("key", "asked", "drawn"), [("height", 10, 8), ("width", 14, 12)])
def test_a_size_that_the_pipeline_changes_is_refused(
    key: str, asked: int, drawn: int, specs: Specs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipeline does whose sizes are not known before it draws."""
    monkeypatch.delitem(SIDE_LATENTS, "FluxPipeline")
    runner = PipelineRunner(replace(specs["flux"], **{key: asked}))
    with pytest.raises(ConfigError, match=rf"model\.{key}: got {asked}; the pipeline drew {drawn}"):
        runner.draw(CASES)
