"""The flow-matching trainer: it learns, resumes to the same bits, and distils guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.training import flow, run

MEANS = {"low": -1.0, "high": 1.0, "": 0.0}


class Point:
    """Two numbers: a prompt says around which value they lie."""

    shift = 1.0

    def __init__(self, *phases: flow.Phase) -> None:
        self.phases = phases

    def build(self) -> nn.ModuleDict:
        layers = nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2))
        return nn.ModuleDict({"transformer": layers})

    def batch(self, size: int, small: bool) -> tuple[Tensor, list[str]]:
        prompts = ["low" if torch.rand(()) < 0.5 else "high" for _ in range(size)]
        return torch.tensor([[MEANS[p]] * 2 for p in prompts]) + 0.1 * torch.randn(size, 2), prompts

    def velocity(
        self, parts: nn.ModuleDict, noisy: Tensor, sigma: Tensor, prompts: list[str], guidance: Tensor
    ) -> Tensor:
        given = torch.tensor([[MEANS[p], float(p == "")] for p in prompts])
        inputs = torch.cat([noisy, sigma[:, None], given, guidance[:, None] - 1], 1)
        result: Tensor = parts["transformer"](inputs)
        return result

    def text_loss(self, parts: nn.ModuleDict, prompts: list[str]) -> Tensor:
        return 0.01 * parts["transformer"][0].weight.square().mean()


def weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)[name]
    return state


def test_a_resumed_run_ends_at_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0)
    phases = (flow.Phase("text", 2, 8), flow.Phase("full", 6, 8), flow.Phase("distil", 3, 8))
    flow.train(Point(*phases), tmp_path / "whole", seed=0)

    class KilledError(Exception):
        pass

    class Stops(Point):
        calls = 0

        def batch(self, size: int, small: bool) -> tuple[Tensor, list[str]]:
            self.calls += 1
            if self.calls == 10:  # within the last phase
                raise KilledError
            return super().batch(size, small)

    with pytest.raises(KilledError):
        flow.train(Stops(*phases), tmp_path / "killed", seed=0)
    flow.train(Point(*phases), tmp_path / "killed", seed=1)
    for name in ("model", "ema", "teacher"):
        once, twice = weights(tmp_path / "whole", name), weights(tmp_path / "killed", name)
        assert once.keys() == twice.keys()
        assert all(torch.equal(once[key], twice[key]) for key in once), name


def test_it_learns_where_the_prompt_points(tmp_path: Path) -> None:
    task = Point(flow.Phase("full", 400, 64))
    flow.train(task, tmp_path, seed=0)
    parts = task.build()
    parts.load_state_dict(weights(tmp_path, "ema"))
    torch.manual_seed(0)
    noise = torch.randn(64, 2)
    for prompt in ("low", "high"):
        noisy = 0.2 * MEANS[prompt] + 0.8 * noise
        found = task.velocity(parts, noisy, torch.full((64,), 0.8), [prompt] * 64, torch.ones(64))
        data = (noisy - 0.8 * found).mean()
        assert abs(data.item() - MEANS[prompt]) < 0.3


def test_distilled_guidance_pushes_away_from_no_prompt(tmp_path: Path) -> None:
    task = Point(flow.Phase("full", 400, 64), flow.Phase("distil", 400, 64))
    flow.train(task, tmp_path, seed=0)
    parts = task.build()
    parts.load_state_dict(weights(tmp_path, "ema"))
    torch.manual_seed(0)
    noise = torch.randn(64, 2)
    means = [
        -task.velocity(parts, noise, torch.full((64,), 0.8), ["high"] * 64, torch.full((64,), g))
        .mean()
        .item()
        for g in (1.0, 2.0, 3.0)
    ]
    assert means[0] < means[1] < means[2]


def test_noise_levels_lie_between_none_and_all_and_lean_to_noise_when_shifted() -> None:
    torch.manual_seed(0)
    plain, shifted = flow.noise_levels(4096, 1.0), flow.noise_levels(4096, 3.0)
    assert plain.min() > 0
    assert plain.max() < 1
    assert abs(plain.median().item() - 0.5) < 0.02
    assert abs(shifted.median().item() - 0.75) < 0.02
