"""The pipeline under test: what is refused, what is drawn, what is timed; and its stored references."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import xslim
from autotune.scoring.case import Case
from autotune.scoring.drawn import Drawn
from autotune.scoring.latency import a_a_floor, paired
from autotune.scoring.pipeline import PipelineRunner, check_model_folder
from tests.scoring.conftest import MODEL, SPEC
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

CASES = (Case(3, 11), Case(8, 12), Case(1, 13))
HALF = Policy.from_pattern("F.F.F.", start_block=0)


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


def test_the_loop_is_timed(runner: PipelineRunner) -> None:
    with runner.loop_timer() as timer:
        with pytest.raises(RuntimeError, match="was not called"):
            timer.take()
        runner.draw(CASES[:1], num_steps=2)
        assert timer.take() > 0
        with pytest.raises(RuntimeError, match="was not called"):
            timer.take()
    assert not runner.pipe.transformer._forward_hooks
    assert not runner.pipe.transformer._forward_pre_hooks


def test_latency_comes_in_pairs(runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[bool] = []
    attach = xslim.attach
    monkeypatch.setattr(
        xslim, "attach", lambda *args, **kwargs: (attached.append(True), attach(*args, **kwargs))[1]
    )
    drawn: list[int] = []
    draw = PipelineRunner.draw

    def counted(self: PipelineRunner, cases: tuple[Case, ...], num_steps: int | None = None) -> Drawn:
        drawn.append(len(attached))
        return draw(self, cases, num_steps)

    monkeypatch.setattr(PipelineRunner, "draw", counted)
    latency = paired(runner, CASES[:2], HALF, 2, 0.03)
    rounds = len(latency.log_ratios) // 2
    assert 2 <= rounds <= 6  # more when the pairs disagree
    turns = [[2 * r, 2 * r + 1, 2 * r + 2, 2 * r + 2] for r in range(rounds)]  # A B B A
    assert drawn == [attached_so_far for turn in turns for attached_so_far in turn]
    assert (latency.batch, latency.floor) == (2, 0.03)
    assert latency.baseline_s > 0
    assert latency.candidate_s > 0
    assert latency.speedup == pytest.approx(np.exp(np.median(latency.log_ratios)))


def test_the_floor_is_the_largest_deviation_of_a_round(runner: PipelineRunner) -> None:
    latency = a_a_floor(runner, CASES[:1], 2)
    rounds = [abs(a + b) / 2 for a, b in zip(latency.log_ratios[::2], latency.log_ratios[1::2], strict=True)]
    assert latency.floor == pytest.approx(np.exp(max(rounds)) - 1)


def test_pairs_that_disagree_are_followed_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 0.5, 0.5, 2.0] + [1.0, 0.5, 0.5, 1.0] * 5)
    monkeypatch.setattr("autotune.scoring.latency.time_loop", lambda *_: next(seconds))
    found = paired(None, (), None, 1, 0.0)  # type: ignore[arg-type]
    assert len(found.log_ratios) == 6
    assert found.speedup == pytest.approx(2.0)
    steady = iter([1.0, 0.5, 0.5, 1.01])
    monkeypatch.setattr("autotune.scoring.latency.time_loop", lambda *_: next(steady))
    assert len(paired(None, (), None, 1, 0.0).log_ratios) == 2  # type: ignore[arg-type]
