"""How many workers there are, and what is said when they are not to be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from autotune.cli.workers import executor_for, worker_count
from autotune.search.executor import LocalExecutor
from autotune.search.experiment import Experiment
from autotune.search.ray_executor import RayExecutor
from tests.cli.support import command
from tests.search.support import EXPERIMENT, merged
from xslim.errors import ConfigError


def experiment(**executor: object) -> Experiment:
    return Experiment.parse(merged(EXPERIMENT, {"executor": executor}))


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)


@pytest.mark.parametrize(
    ("there", "asked", "workers"),
    [
        (0, {}, 1),
        (0, {"workers": 3}, 3),  # shares of the CPU
        (8, {}, 8),
        (8, {"gpus": 2}, 4),
        (8, {"gpus": 4, "workers": 2}, 2),
        (8, {"gpus": 0}, 1),
        (8, {"gpus": 3}, 2),
    ],
)
def test_one_worker_for_each_gpu_else_one(
    monkeypatch: pytest.MonkeyPatch, there: int, asked: dict[str, object], workers: int
) -> None:
    gpus(monkeypatch, there)
    assert worker_count(experiment(**asked), None) == workers


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        (
            8,
            {"workers": 9},
            "executor.workers: got 9 workers with 1 GPU each, this machine has 8; allowed: up",
        ),
        (2, {"gpus": 2, "workers": 2}, "executor.workers: got 2 workers with 2 GPUs each, this machine has"),
        (0, {"gpus": 1}, "executor.gpus: got 1 worker with 1 GPU each, this machine has 0; set executor.gpu"),
    ],
)
def test_more_gpus_than_exist(
    monkeypatch: pytest.MonkeyPatch, there: int, asked: dict[str, object], said: str
) -> None:
    gpus(monkeypatch, there)
    with pytest.raises(ConfigError) as raised:
        worker_count(experiment(**asked), None)
    assert str(raised.value).startswith(said)


def test_a_clusters_gpus_are_its_own_matter() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        assert worker_count(experiment(gpus=8, workers=40), address) == 40
        assert worker_count(experiment(), address) == 1
    with pytest.raises(ConfigError, match=f"--ray-address: no Ray cluster at {address}"):
        worker_count(experiment(), address)


def test_the_executor_that_an_experiment_names() -> None:
    assert isinstance(executor_for(experiment(kind="local"), 1, None, 1), LocalExecutor)
    assert isinstance(executor_for(experiment(kind="local"), 1, "HEAD:6379", 1), RayExecutor)
    chosen = executor_for(experiment(timing_device="NVIDIA H200"), 1, None, 1)
    assert isinstance(chosen, RayExecutor)
    assert chosen.timing_device == "NVIDIA H200"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "executor.workers=0"), "--set: executor.workers: got 0;"),
        (("--set", "executor.workers=2", "--set", "executor.gpus=999999"), "executor.gpus: got 999999;"),
        (("--ray-address", "127.0.0.1:1"), "--ray-address: no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_bad_workers_are_refused_before_anything_is_written(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    result = command("search", "experiments/dit-digits.yaml", "--out", str(tmp_path / "run"), *words)
    assert result.status == 2
    assert said in result.one_line()
    assert not (tmp_path / "run").exists()
