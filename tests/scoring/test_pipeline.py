"""The pipeline under test: what is refused, what is drawn, what is timed; and its stored references."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner, check_model_folder
from tests.scoring.conftest import MODEL, SPEC
from xslim.errors import ConfigError

CASES = (Case(3, 11), Case(8, 12), Case(1, 13))


def refused(path: Path, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PipelineRunner(replace(SPEC, path=str(path)))
    line = str(caught.value)
    assert line.startswith(f"model.path: got {str(path)!r}")
    assert part in line
    assert "\n" not in line


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "which is no folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "which is no folder")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "which has no model_index.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"_class_name": "NoSuchPipeline"}',
        '{"_class_name": 3}',
        '{"_class_name": "DiTPipeline", "_diffusers_version": "0.30.0"}',
        '{"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}',
    ],
)
def test_an_index_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)
    refused(tmp_path, "cannot load it" if "Pipeline" in text else "model_index.json")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 100)
    refused(folder, "cannot load it")


def test_hub_ids_pass_the_check_of_folders() -> None:
    check_model_folder("facebook/DiT-XL-2-256")
    for path in ("./facebook/DiT", "/facebook", "~/DiT", "DiT", "a/b/c"):
        with pytest.raises(ConfigError, match="which is no folder"):
            check_model_folder(path)


def test_pictures_are_those_of_their_cases(runner: PipelineRunner) -> None:
    images = runner.draw(CASES).images
    assert images.shape[0] == 3
    assert (images.dtype, images.device.type) == (torch.float32, "cpu")
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, runner.draw(CASES).images)
    assert torch.allclose(images[[2, 0, 1]], runner.draw([CASES[2], CASES[0], CASES[1]]).images, atol=1e-4)
    assert not torch.allclose(
        images, runner.draw([replace(case, seed=9) for case in CASES]).images, atol=1e-2
    )


def test_batches_are_of_the_specs_size(runner: PipelineRunner) -> None:
    assert [len(batch) for batch in runner.batches(CASES)] == [2, 1]
    assert [case for batch in runner.batches(CASES) for case in batch] == list(CASES)
