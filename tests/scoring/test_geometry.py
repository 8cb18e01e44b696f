"""Counted operations against published ones, and geometries against the models that they speak of."""

from __future__ import annotations

import functools
from pathlib import Path

import diffusers
import pytest
import torch

from autotune.scoring.case import Case
from autotune.scoring.geometry import calls_per_step, flops_per_image, geometry_of, known_geometries
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from tests.folders import PIPELINES, save
from xslim.errors import ConfigError
from xslim.runtime.macs import count

FLUX, DIT = "black-forest-labs/FLUX.1-dev", "facebook/DiT-XL-2-256"
QWEN = "Qwen/Qwen-Image"


def flops(path: str, steps: int = 50, **request: object) -> float:
    geometry = geometry_of(path)
    assert geometry is not None
    counted = flops_per_image(geometry, ModelSpec(path, steps, **request))  # type: ignore[arg-type]
    assert counted is not None
    return counted


def test_counts_are_those_of_the_papers() -> None:
    # ToCa (arXiv:2410.05317) and those after it: 3719.50 TFLOPs for 50 steps at 1024x1024
    assert flops(FLUX) == pytest.approx(3719.50e12, rel=2e-4)
    # DiT (arXiv:2212.09748), table 4: 118.64 Gflops, which are multiply-accumulates, a sample and call
    assert flops(DIT, 1, guidance_scale=1.0) / 2 == pytest.approx(118.64e9, rel=2e-3)


@pytest.mark.parametrize(
    ("path", "billions"),
    [  # as the model cards or diffusers' own benchmark state them
        (FLUX, 11.901),
        ("hunyuanvideo-community/HunyuanVideo", 12.8),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 1.42),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", 14.3),
        (QWEN, 20.4),
    ],
)
def test_parameters_are_those_of_the_models(path: str, billions: float) -> None:
    geometry = known_geometries()[path]
    with torch.device("meta"):
        model = getattr(diffusers, geometry.transformer)(**geometry.config)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=4e-3)
    assert hasattr(diffusers, geometry.pipeline)


def test_guidance_costs_what_the_pipelines_do() -> None:
    assert flops(DIT, 2) == pytest.approx(2 * flops(DIT, 2, guidance_scale=1.0), rel=1e-6)
    assert flops(DIT, 2, guidance_scale=1.0) == pytest.approx(2 * flops(DIT, 1, guidance_scale=1.0))
    negative = {"negative_prompt": " "}
    plain = flops(QWEN, 1)
    assert flops(QWEN, 1, arguments=negative) == 2 * plain
    assert flops(QWEN, 1, arguments={**negative, "true_cfg_scale": 1.0}) == plain
    assert flops(FLUX, 1, arguments={"true_cfg_scale": 4.0}) == flops(FLUX, 1)
    assert flops(FLUX, 1, arguments={**negative, "true_cfg_scale": 4.0}) == 2 * flops(FLUX, 1)


def test_a_larger_request_costs_more() -> None:
    assert flops(FLUX, 1) < flops(FLUX, 1, width=2048) < flops(FLUX, 1, width=2048, height=2048)
    assert flops(FLUX, 1, arguments={"max_sequence_length": 256}) < flops(FLUX, 1)


@pytest.mark.parametrize("name", ["flux", "hunyuan", "wan"])
def test_a_folders_request_is_counted_as_it_runs(name: str, tmp_path: Path) -> None:
    """The count from configs alone against that of the calls that the pipeline makes."""
    from tests.scoring.families import REQUESTS

    path = save(PIPELINES[name](), tmp_path / name)
    spec = ModelSpec(path, 3, 3.0, device="cpu", **REQUESTS[name])
    runner, calls = PipelineRunner(spec), []
    hook = runner.pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    runner.draw([Case("three", 1)])
    hook.remove()
    geometry = geometry_of(path)
    assert geometry is not None
    assert len(calls) == 3 * calls_per_step(geometry, spec)
    with torch.no_grad():
        counted = sum(
            2 * count(functools.partial(runner.pipe.transformer, *args, **kwargs)) for args, kwargs in calls
        )
    assert flops_per_image(geometry, spec) == pytest.approx(counted, rel=1e-6)


def test_a_model_that_is_not_known_has_no_count(tmp_path: Path) -> None:
    assert geometry_of("some/other-model") is None
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ConfigError, match=r"model\.path: got '.*', where the configs of transformer and vae"):
        geometry_of(str(tmp_path))
