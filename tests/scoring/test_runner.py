"""Any pipeline is drawn as its own call draws it; what does not fit it is one line."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging

import xslim
from autotune.scoring.case import Case
from autotune.scoring.pipeline import Memory, ModelSpec, PipelineRunner
from autotune.scoring.pipeline.loading import place, transformers
from autotune.scoring.pipeline.request import SIDE_LATENTS
from autotune.scoring.profiling import take_profile
from autotune.scoring.residuals import MAX_TOKENS, Recorded
from tests.folders import PIPELINES, save
from tests.tiny import dit_pipeline
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

STEPS = 4
CASES = (Case("three", 1), Case("seven moving right", 2))
REQUESTS: dict[str, dict[str, Any]] = {
    "flux": {"height": 8, "width": 12, "arguments": {"max_sequence_length": 8}},
    "hunyuan": {
        "height": 16,
        "width": 16,
        "num_frames": 9,
        "arguments": {"prompt_template": {"template": "<s>{}", "crop_start": 0}, "max_sequence_length": 8},
    },
    "wan": {
        "height": 16,
        "width": 32,
        "num_frames": 5,
        "arguments": {"negative_prompt": "four", "max_sequence_length": 8},
    },
}
REQUESTS["wan22"] = REQUESTS["wan"]
SHAPES = {
    "flux": ((2, 3, 8, 12), (2, 6, 16)),
    "hunyuan": ((2, 9, 1, 16, 16), (2, 4, 3, 4, 4)),
    "wan": ((2, 5, 3, 16, 32), (2, 4, 2, 2, 4)),
    "wan22": ((2, 5, 3, 16, 32), (2, 4, 2, 2, 4)),
}
CALLS = {"flux": 1, "hunyuan": 1, "wan": 2, "wan22": 2}  # a step


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("pipelines")
    made = {name: save(build(), root / name) for name, build in PIPELINES.items()}
    return {**made, "dit": save(dit_pipeline(), root / "dit")}


@pytest.fixture(scope="module")
def specs(folders: dict[str, str]) -> dict[str, ModelSpec]:
    made = {
        name: ModelSpec(folders[name], STEPS, 3.0, device="cpu", batch=2, **request)
        for name, request in REQUESTS.items()
    }
    return {**made, "dit": ModelSpec(folders["dit"], STEPS, 3.0, device="cpu", batch=2)}


@pytest.fixture(scope="module")
def load(specs: dict[str, ModelSpec]) -> Callable[[str], PipelineRunner]:
    loaded: dict[str, PipelineRunner] = {}

    def get(name: str) -> PipelineRunner:
        if name not in loaded:
            loaded[name] = PipelineRunner(specs[name])
        return loaded[name]

    return get


Load = Callable[[str], PipelineRunner]
Specs = dict[str, ModelSpec]
EVERY = pytest.mark.parametrize("name", sorted(SHAPES))


def by_hand(runner: PipelineRunner, name: str, output_type: str, **changes: Any) -> Any:
    """What the pipeline itself draws of both cases."""
    request = dict(REQUESTS[name])
    arguments = dict(request.pop("arguments"))
    if "negative_prompt" in arguments:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * 2
    return runner.pipe(
        prompt=[case.prompt for case in CASES],
        generator=[torch.Generator("cpu").manual_seed(case.seed) for case in CASES],
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        output_type=output_type,
        **{**request, **arguments, **changes},
    )[0]


@EVERY
def test_a_draw_is_the_pipelines_own(name: str, load: Load) -> None:
    runner = load(name)
    drawn = runner.draw(CASES)
    assert (tuple(drawn.images.shape), tuple(drawn.latents.shape)) == SHAPES[name]
    assert drawn.is_video is (name != "flux")
    assert torch.equal(drawn.images, by_hand(runner, name, "pt").float().clamp(0, 1))
    if name == "flux":  # the video pipelines scale their latents before they give them away
        assert torch.equal(drawn.latents, by_hand(runner, name, "latent"))
    for value in (drawn.images, drawn.latents):
        assert (value.dtype, value.device.type, value.requires_grad) == (torch.float32, "cpu", False)
        assert value.std() > 0
    assert torch.equal(runner.draw(CASES).images, drawn.images)


@EVERY
def test_cases_do_not_depend_on_their_batch(name: str, load: Load) -> None:
    runner = load(name)
    both = runner.draw(CASES)
    for i, case in enumerate(CASES):
        alone = runner.draw([case])
        assert torch.allclose(alone.images[0], both.images[i], atol=1e-4)
        assert torch.allclose(alone.latents[0], both.latents[i], atol=1e-4)


def test_the_latents_of_dit_are_those_it_decodes(load: Load) -> None:
    runner = load("dit")
    drawn = runner.draw([Case(3, 1), Case(8, 2)])
    vae = runner.pipe.vae
    with torch.no_grad():
        decoded = vae.decode(1 / vae.config.scaling_factor * drawn.latents).sample
    assert torch.equal(drawn.images, (decoded / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("name", ["dit", "flux", "hunyuan", "wan"])
def test_the_scheduler_is_left_as_it_was(name: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = load(name)
    cases = CASES if name != "dit" else (Case(1, 1),)
    scheduler = runner.pipe.scheduler
    before = set(vars(scheduler)), inspect.signature(scheduler.step)
    seen: list[Any] = []
    hook = transformers(runner.pipe)[0].register_forward_hook(
        lambda *_: seen.append(inspect.signature(scheduler.step))
    )
    runner.draw(cases)
    hook.remove()
    assert set(seen) == {before[1]}, "pipelines look at the arguments of step"
    assert "step" not in vars(scheduler)
    with monkeypatch.context() as patch:
        patch.setattr(runner.pipe.transformer, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.draw(cases)
    assert (set(vars(scheduler)) | before[0], inspect.signature(scheduler.step)) == before


@pytest.mark.parametrize("name", ["flux", "hunyuan", "wan"])
def test_a_policy_sees_the_request_as_without_the_runner(name: str, load: Load) -> None:
    runner = load(name)
    plain, policy = runner.draw(CASES), Policy.from_pattern("FF.F", start_block=0)
    for pattern, action in (("FFFF", "FFFF"), ("FF.F", "FF.F")):
        with xslim.attach(runner.pipe, Policy.from_pattern(pattern, start_block=0), STEPS) as session:
            drawn = runner.draw(CASES)
        assert session.trace.actions == action
        assert session.requests[-1].mismatch is None
        assert session.trace.branches == (("cond", "uncond") if name == "wan" else ("cond",))
        assert torch.equal(drawn.images, plain.images) is (pattern == "FFFF")
    with xslim.attach(runner.pipe, policy, STEPS):
        own = by_hand(runner, name, "pt").float().clamp(0, 1)
    assert torch.equal(own, drawn.images)


@EVERY
def test_every_call_of_every_transformer_is_timed(name: str, load: Load) -> None:
    runner = load(name)
    with runner.loop_timer() as timer:
        runner.draw(CASES)
        seconds = timer.take()
    assert len(timer.calls) == STEPS * CALLS[name]
    assert sum(timer.calls) == pytest.approx(seconds)
    assert len(transformers(runner.pipe)) == (2 if name == "wan22" else 1)
    for transformer in transformers(runner.pipe):
        assert not transformer._forward_hooks


def test_guidance_is_that_of_the_call_by_default(load: Load, specs: Specs) -> None:
    assert load("flux").guidance_scale == 3.0
    runner = PipelineRunner(replace(specs["flux"], guidance_scale=None))
    assert runner.guidance_scale == 3.5
    spelt = PipelineRunner(replace(specs["flux"], guidance_scale=3.5))
    assert torch.equal(runner.draw(CASES).images, spelt.draw(CASES).images)
    assert not torch.equal(runner.draw(CASES).images, load("flux").draw(CASES).images)


def test_a_negative_prompt_is_for_every_case(specs: Specs) -> None:
    arguments = {"max_sequence_length": 8, "negative_prompt": "nine", "true_cfg_scale": 2.0}
    runner = PipelineRunner(replace(specs["flux"], arguments=arguments))
    both = runner.draw(CASES).images
    assert torch.allclose(both[:1], runner.draw(CASES[:1]).images, atol=1e-4)
    changes = {**arguments, "negative_prompt": ["nine", "nine"]}
    assert torch.equal(both, by_hand(runner, "flux", "pt", **changes).float().clamp(0, 1))


def test_labels_are_taken_by_number_or_by_name(specs: Specs, tmp_path: Path) -> None:
    pipe = dit_pipeline()
    pipe.register_to_config(id2label={"3": "tench, fish", "8": "hen"})
    pipe.labels = {"tench": 3, "fish": 3, "hen": 8}
    runner = PipelineRunner(specs["dit"])
    runner.pipe.labels = pipe.labels
    expected = runner.draw([Case(3, 1), Case(8, 2)]).images
    assert torch.equal(runner.draw([Case("fish", 1), Case("8", 2)]).images, expected)


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


def test_a_spec_travels_as_bytes_and_as_json(specs: Specs) -> None:
    for spec in specs.values():
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert dumps(asdict(spec))


@pytest.mark.parametrize("name", ["flux", "hunyuan", "wan"])
def test_every_family_is_profiled_step_by_step(name: str, load: Load) -> None:
    profile = take_profile(load(name), CASES)
    rows = len(CASES) * CALLS[name]
    assert profile.gram.shape == (rows, STEPS, STEPS)
    assert profile.change.shape == profile.curve.shape == (STEPS - 1,)
    assert (profile.lengths > 0).all()
    assert profile.blocks.shape[1:] == profile.gram.shape[1:]
    assert profile.signature.num_steps == STEPS
    diagonal = profile.gram.diagonal(axis1=1, axis2=2)
    assert (diagonal > 0).all()


def test_steps_shared_by_two_transformers_are_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: got a WanPipeline whose steps are shared by two"):
        take_profile(load("wan22"), CASES)


def test_residuals_of_a_long_sequence_are_sampled() -> None:
    recorded = Recorded()
    long = torch.arange(4.0 * MAX_TOKENS).reshape(1, -1, 1)
    for _ in range(4):
        recorded.add(long)
    (kept,) = {tuple(residual.shape) for residual in recorded.residuals}
    assert kept == (1, MAX_TOKENS, 1)
    assert recorded.share == 4
    assert recorded.residuals[0].mean() == pytest.approx(float(long.mean()), rel=1e-3)
    assert recorded.by_step(4).shape == (4, 1, MAX_TOKENS, 1)
    assert recorded.by_step(2).shape == (2, 2, MAX_TOKENS, 1)
    with pytest.raises(ConfigError, match=r"called 4 times in 3 steps"):
        recorded.by_step(3)
